"""Plan a recipe, run it against a store, and say what happened.

Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.engine.core import Engine
    from mcomp.engine.plan import Plan, PlannedStage
    from mcomp.engine.results import GateOutcome, RunResult, StageOutcome, SweepResult

_HOMES = {
    "Engine": "core",
    "GateOutcome": "results",
    "Plan": "plan",
    "PlannedStage": "plan",
    "RunResult": "results",
    "StageOutcome": "results",
    "SweepResult": "results",
}

__all__ = ["Engine", "GateOutcome", "Plan", "PlannedStage", "RunResult", "StageOutcome", "SweepResult"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.engine` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
