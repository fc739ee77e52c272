"""How an artifact repeats ``quantize`` and ``fuse`` on a freshly built model. Costs no torch until used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.surgery import Entry, register_replay

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_replay("quantize")
def _quantize(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.quantization.config import QuantizeConfig
    from mcomp.quantization.conversion import convert
    from mcomp.quantization.tracing import trace

    return convert(model, trace(model, len(example_inputs)), QuantizeConfig.recorded(entry))


@register_replay("fuse")
def _fuse(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.quantization.fold import refold

    return refold(model, entry)
