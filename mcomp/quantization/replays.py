"""How an artifact repeats ``quantize`` and ``fuse`` on a freshly built model. Costs no torch until used."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from mcomp.surgery import Entry, register_replay

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_replay("quantize")
def _quantize(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.quantization.config import QuantizeConfig
    from mcomp.quantization.conversion import convert, convert_modules
    from mcomp.quantization.restoration import remember_float
    from mcomp.quantization.routes import graph_again
    from mcomp.quantization.swapping import Run

    config = QuantizeConfig.recorded(entry)
    original = copy.deepcopy(model)  # tracing and swapping change what they are given
    if config.route == "modules":
        converted = convert_modules(model, config, Run(entry["reached"]))
    else:
        converted = convert(model, graph_again(config.route, model, example_inputs), config)
    remember_float(converted, original)
    return converted


@register_replay("fuse")
def _fuse(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.quantization.fold import refold

    return refold(model, entry)


@register_replay("quantize_outputs")
def _quantize_outputs(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.quantization.outputs import quantize_outputs_again

    return quantize_outputs_again(model, entry)
