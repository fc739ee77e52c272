"""A file of weights that has as many bits as they have: 1 for binary ones, 1.6 for ternary, 2 to 16 for the rest.

``mcomp help packed-weights`` shows the format, and a reader of it that needs numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.deploy.packed.packing import PackedTensor, Packing, pack
    from mcomp.deploy.packed.unpacking import Unpacked, unpack

_HOMES = {
    "PackedTensor": "packing",
    "Packing": "packing",
    "Unpacked": "unpacking",
    "pack": "packing",
    "unpack": "unpacking",
}

__all__ = ["PackedTensor", "Packing", "Unpacked", "pack", "unpack"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.deploy.packed.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.deploy.packed` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
