"""What a run hands back, in the shape that ``--json`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

StageStatus = Literal["hit", "run", "resumed", "skipped", "failed"]
RunStatus = Literal["ok", "gate_failed", "failed", "interrupted"]


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


@dataclass
class StageOutcome:
    """One stage of a finished, failed or interrupted run."""

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

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; ``details`` stay in the store."""
        return {
            "id": self.id,
            "uses": self.uses,
            "status": self.status,
            "key": self.key,
            "artifact": self.artifact,
            "seconds": round(self.seconds, 3),
            "metrics": self.metrics,
            "files": self.files,
            "gates": [gate.as_dict() for gate in self.gates],
            "notes": self.notes,
        }


@dataclass
class RunResult:
    """The outcome of :meth:`Engine.apply`."""

    run: str
    name: str
    status: RunStatus
    exit_code: int
    seconds: float
    stages: list[StageOutcome]
    error: dict[str, Any] | None = None
    folder: str = ""

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

    def _repr_html_(self) -> str:
        from mcomp.engine.summary import result_html

        return result_html(self.as_dict())
