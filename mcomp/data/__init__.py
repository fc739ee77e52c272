"""Data sets: one embedded, the usual ones, folders of images, and your own.

Imported on first use: no torch here. The digest of a data set's content is
:func:`mcomp.data.fingerprint.fingerprint`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.data.loading import load
    from mcomp.data.spec import known_names, options_for
    from mcomp.data.splits import Data, Split

_HOMES = {
    "Data": "splits",
    "Split": "splits",
    "known_names": "spec",
    "load": "loading",
    "options_for": "spec",
}

__all__ = ["Data", "Split", "known_names", "load", "options_for"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.data` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
