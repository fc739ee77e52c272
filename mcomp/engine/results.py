"""What a run hands back, in the shape that ``--json`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mcomp.engine.display import Screen, Shown, run_screen, sweep_screen

StageStatus = Literal["hit", "run", "resumed", "skipped", "failed"]
#: What the status alone does not tell: a signal ended the stage, another process held its key and waiting was refused,
#: the run never came to it.
Ending = Literal["interrupted", "waiting refused", "not run"]
#: ``refused`` is a run of a sweep that could not start; a single run raises instead.
RunStatus = Literal["ok", "gate_failed", "failed", "interrupted", "refused"]


@dataclass(frozen=True)
class GateOutcome:
    """One limit of the recipe, held against what was measured.

    ``limit`` is in the unit of ``value``: both are the metric itself for ``min``/``max``,
    the drop for ``max_drop``, the ratio for ``max_ratio``.
    """

    metric: str
    rule: str
    limit: float
    value: float
    passed: bool
    versus: str | None = None
    unit: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "metric": self.metric,
            "rule": self.rule,
            "limit": self.limit,
            "value": self.value,
            "passed": self.passed,
            "vs": self.versus,
            "unit": self.unit,
        }


@dataclass(repr=False)
class StageOutcome:
    """One stage of a finished, failed or interrupted run.

    A skipped stage has no artifact of its own: what follows it got the model of ``source``. One that the run never
    came to is ``skipped`` too, with ``ending`` "not run".
    """

    id: str
    uses: str
    status: StageStatus
    key: str | None = None
    artifact: str | None = None
    seconds: float = 0.0
    metrics: dict[str, float | int | str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    gates: list[GateOutcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    ending: Ending | None = None

    @property
    def outcome(self) -> str:
        """The status as a person is told it."""
        return self.ending or self.status

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self.metrics.items())
        return f"<StageOutcome {self.id}: {self.outcome}{f', {figures}' if figures else ''}>"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; ``details`` stay in the store."""
        return {
            "id": self.id,
            "uses": self.uses,
            "from": self.source,
            "status": self.status,
            "outcome": self.outcome,
            "key": self.key,
            "artifact": self.artifact,
            "seconds": round(self.seconds, 3),
            "metrics": self.metrics,
            "files": self.files,
            "gates": [gate.as_dict() for gate in self.gates],
            "notes": self.notes,
        }


@dataclass(repr=False)
class RunResult(Shown):
    """The outcome of :meth:`Engine.apply`."""

    run: str
    name: str
    status: RunStatus
    exit_code: int
    seconds: float
    stages: list[StageOutcome]
    error: dict[str, Any] | None = None
    folder: str = ""
    sweep: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, stage_id: str) -> StageOutcome:
        """The stage with this id."""
        for stage in self.stages:
            if stage.id == stage_id:
                return stage
        raise KeyError(stage_id)

    @property
    def ok(self) -> bool:
        """True when every stage ran and every gate held."""
        return self.status == "ok"

    def as_dict(self) -> dict[str, Any]:
        """The object that ``apply --json`` prints."""
        found: dict[str, Any] = {
            **({"sweep": self.sweep} if self.sweep else {}),
            "run": self.run,
            "name": self.name,
            "status": self.status,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "stages": [stage.as_dict() for stage in self.stages],
        }
        if self.error is not None:
            found["errors"] = [self.error]
        return found

    def _screen(self) -> Screen:
        return run_screen(self.as_dict())


@dataclass(repr=False)
class SweepResult(Shown):
    """The outcome of :meth:`Engine.sweep`: one run per point, in order.

    Attributes:
        name: of the recipe.
        runs: those that were begun, refused ones among them.
        points: how many the recipe has; more than ``runs`` where the sweep was interrupted.
        stopped_by: the signal that interrupted it, or 0.
    """

    name: str
    runs: list[RunResult]
    points: int
    stopped_by: int = 0

    @property
    def exit_code(self) -> int:
        """Of the interruption, else the first of the runs' that is not 0."""
        if self.stopped_by:
            return 128 + self.stopped_by
        return next((run.exit_code for run in self.runs if run.exit_code), 0)

    @property
    def status(self) -> RunStatus:
        """Of the interruption, else of the first run that did not end well."""
        if self.stopped_by:
            return "interrupted"
        return next((run.status for run in self.runs if run.exit_code), "ok")

    @property
    def ok(self) -> bool:
        """True when every point was run, every stage of it, and every gate held."""
        return self.exit_code == 0

    def as_dict(self) -> dict[str, Any]:
        """The object that ``apply --json`` prints for a recipe with a sweep."""
        return {
            "name": self.name,
            "status": self.status,
            "exit_code": self.exit_code,
            "points": self.points,
            "runs": [run.as_dict() for run in self.runs],
        }

    def _screen(self) -> Screen:
        return sweep_screen(self.as_dict())
