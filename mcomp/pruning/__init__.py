"""Structured pruning of any network: dependencies are traced, weights transferred, the result proved.

Beside it the penalties that prepare for it, and masks on single weights. Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mcomp.errors import StoreError
from mcomp.surgery import register_replay

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
    from mcomp.pruning.group_lasso import GroupLasso
    from mcomp.pruning.growing_penalty import GrowingPenalty
    from mcomp.pruning.sparsity import BNPenalty
    from mcomp.pruning.structured import PruneResult, prune, trace
    from mcomp.pruning.weight_sparsity import SparsifyResult, sparsify

_HOMES = {
    "BNPenalty": "sparsity",
    "ChannelGroup": "channel_groups",
    "ChannelGroups": "channel_groups",
    "GroupLasso": "group_lasso",
    "GrowingPenalty": "growing_penalty",
    "PruneResult": "structured",
    "SparsifyResult": "weight_sparsity",
    "prune": "structured",
    "sparsify": "weight_sparsity",
    "trace": "structured",
}

__all__ = [
    "BNPenalty",
    "ChannelGroup",
    "ChannelGroups",
    "GroupLasso",
    "GrowingPenalty",
    "PruneResult",
    "SparsifyResult",
    "prune",
    "sparsify",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.pruning.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.pruning` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)


@register_replay("prune")
def _replay(model: nn.Module, entry: dict[str, Any], example_inputs: tuple[Tensor, ...]) -> nn.Module:
    from mcomp.pruning.channel_surgery import replay

    return replay(model, entry)


@register_replay("sparsify")
def _keep(model: nn.Module, entry: dict[str, Any], example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """The zeros are in the tensors; the entry says which of them training has to keep."""
    known = dict(model.named_parameters())
    missing = [name for name in entry["weights"] if name not in known]
    if missing:
        raise StoreError(
            f"the recorded masks do not fit this model: it has no weight `{missing[0]}`",
            code="MC419",
            hint="the artifact was made from another model, or from another version of its code",
        )
    return model
