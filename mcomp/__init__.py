"""mcomp: declarative compression recipes for PyTorch.

Everything here is imported on first use, so that ``import mcomp`` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.artifact import load_model, save_model
    from mcomp.engine import Engine
    from mcomp.errors import McompError
    from mcomp.recipe import Recipe

__version__ = "0.1.0"

_HOMES = {
    "Engine": "mcomp.engine",
    "McompError": "mcomp.errors",
    "Recipe": "mcomp.recipe",
    "load_model": "mcomp.artifact",
    "save_model": "mcomp.artifact",
}
_ROOMS = ("data", "deploy", "errors", "metrics", "models", "pruning", "quantization", "stages", "training")

__all__ = ["Engine", "McompError", "Recipe", "__version__", "load_model", "save_model"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"mcomp.{name}")
    raise AttributeError(f"module `mcomp` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
