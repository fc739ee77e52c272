"""A plan as data: one line per stage, what it costs, and why it is so. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mcomp.engine.display import Screen, Shown, plan_screen

if TYPE_CHECKING:
    from mcomp.engine.keys import Preimage
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage

#: ``skip`` is a stage whose ``when`` does not hold, and every stage after one that ends the run.
PlanStatus = Literal["hit", "resume", "run", "skip"]

#: A figure of a plan: known, a range ``(low, high)`` that holds it, or not known.
Cost = int | float | tuple[float, float] | None


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan.

    Attributes:
        stage: what runs; where a condition does not hold, the stage that runs in its place, under the same id.
        status: what ``apply`` would do with it now.
        reason: why, as a phrase.
        key: None where it depends on an outcome not known yet.
        preimage: what the key is the digest of.
        record: of the finished action; None unless it is a hit or has run.
        note: why another stage runs in this one's place, or why it is skipped; for the person who reads the table.
        ends: what its unmet condition does to the run: nothing, end it well, or end it as a failed gate does.
        unmet: what of its condition does not hold, as a sentence.
        token: the same for two stages, also of two recipes, that would compute the same; None where it is skipped.
        shared: in a sweep, the run (from 1) that will have made this stage's outcome when this one comes to it.
        params: of the model that it hands on.
        macs: of one sample.
        seconds: that it takes; of a hit, what it took.
        memory_bytes: the largest resident memory of the process while it runs.
    """

    stage: RecipeStage
    status: PlanStatus
    reason: str
    key: str | None
    preimage: Preimage | None
    record: dict[str, Any] | None = None
    note: str = ""
    ends: Literal["", "stop", "fail"] = ""
    unmet: str = ""
    token: str | None = None
    shared: int | None = None
    params: Cost = None
    macs: Cost = None
    seconds: Cost = None
    memory_bytes: Cost = None

    def as_dict(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints; a cost is null unless known, and a range a list of two."""
        return {
            "id": self.stage.id,
            "uses": self.stage.uses,
            "status": self.status,
            "reason": self.reason,
            "key": self.key,
            "params": self.params,
            "macs": self.macs,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The stages of a recipe in order, against one store."""

    recipe: Recipe
    stages: list[PlannedStage] = field(default_factory=list)

    def __getitem__(self, stage_id: str) -> PlannedStage:
        """The line of the stage with this id."""
        for planned in self.stages:
            if planned.stage.id == stage_id:
                return planned
        raise KeyError(stage_id)

    @property
    def all_hits(self) -> bool:
        """True when nothing needs to run."""
        return all(stage.status in ("hit", "skip") for stage in self.stages)

    def giver(self, planned: PlannedStage) -> PlannedStage | None:
        """The stage whose model this one gets, looking through skipped ones; None for the recipe's own model."""
        source = planned.stage.source
        while source is not None and self[source].status == "skip":
            source = self[source].stage.source
        return None if source is None else self[source]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found: dict[str, Any] = {"name": self.recipe.name, "stages": [stage.as_dict() for stage in self.stages]}
        return {"sweep": dict(self.recipe.sweep_values), **found} if self.recipe.sweep_values else found

    def _screen(self) -> Screen:
        return plan_screen(self.as_dict())
