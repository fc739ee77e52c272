"""Plan a recipe, run it against a store, and say what happened. No torch at import."""

from __future__ import annotations

from mcomp.engine.core import Engine
from mcomp.engine.planning import Plan, PlannedStage
from mcomp.engine.results import GateOutcome, RunResult, StageOutcome, SweepResult

__all__ = ["Engine", "GateOutcome", "Plan", "PlannedStage", "RunResult", "StageOutcome", "SweepResult"]
