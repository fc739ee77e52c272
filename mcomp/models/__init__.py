"""Built-in networks, and one door to torchvision's, timm's and your own.

Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.models.channel_shuffle import ChannelShuffle
    from mcomp.models.lenet5 import lenet
    from mcomp.models.network_in_network import nin, nin_gc
    from mcomp.models.registry import known_names, options_for
    from mcomp.models.resolve import build
    from mcomp.models.spec import ModelSpec

_HOMES = {
    "ChannelShuffle": "channel_shuffle",
    "ModelSpec": "spec",
    "build": "resolve",
    "known_names": "registry",
    "lenet": "lenet5",
    "nin": "network_in_network",
    "nin_gc": "network_in_network",
    "options_for": "registry",
}

__all__ = ["ChannelShuffle", "ModelSpec", "build", "known_names", "lenet", "nin", "nin_gc", "options_for"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.models` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
