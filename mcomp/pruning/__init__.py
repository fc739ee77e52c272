"""Structured pruning of any network: dependencies are traced, weights transferred, the result proved.

Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mcomp.surgery import register_replay

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
    from mcomp.pruning.sparsity import BNPenalty
    from mcomp.pruning.structured import PruneResult, prune, trace

_HOMES = {
    "BNPenalty": "sparsity",
    "ChannelGroup": "channel_groups",
    "ChannelGroups": "channel_groups",
    "PruneResult": "structured",
    "prune": "structured",
    "trace": "structured",
}

__all__ = ["BNPenalty", "ChannelGroup", "ChannelGroups", "PruneResult", "prune", "trace"]


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
