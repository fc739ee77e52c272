"""mcomp: declarative compression recipes for PyTorch.

Everything here is imported on first use, so that ``import mcomp`` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.artifact import load_model, save_model
    from mcomp.engine.core import Engine
    from mcomp.engine.planning import Plan, PlannedStage
    from mcomp.engine.results import GateOutcome, RunResult, StageOutcome, SweepResult
    from mcomp.errors import McompError, RecipeError
    from mcomp.recipe import Recipe
    from mcomp.stages.base import StageResult

__version__ = "0.1.0"

_HOMES = {
    "Engine": "mcomp.engine.core",
    "GateOutcome": "mcomp.engine.results",
    "McompError": "mcomp.errors",
    "Plan": "mcomp.engine.planning",
    "PlannedStage": "mcomp.engine.planning",
    "Recipe": "mcomp.recipe",
    "RecipeError": "mcomp.errors",
    "RunResult": "mcomp.engine.results",
    "StageOutcome": "mcomp.engine.results",
    "StageResult": "mcomp.stages.base",
    "SweepResult": "mcomp.engine.results",
    "load_model": "mcomp.artifact",
    "save_model": "mcomp.artifact",
}
_ROOMS = ("data", "deploy", "errors", "metrics", "models", "pruning", "quantization", "stages", "training")

__all__ = [
    "Engine",
    "GateOutcome",
    "McompError",
    "Plan",
    "PlannedStage",
    "Recipe",
    "RecipeError",
    "RunResult",
    "StageOutcome",
    "StageResult",
    "SweepResult",
    "__version__",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        # the engine knows no screen: who runs it from Python is shown what the command line shows
        from mcomp.engine import display
        from mcomp.report import progress

        display.install(progress.display)
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"mcomp.{name}")
    raise AttributeError(f"module `mcomp` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
