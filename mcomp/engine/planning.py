"""Which stages are cached, which go on from a snapshot, which run, and why. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mcomp.engine.keys import KeyMaker, Preimage, key_of

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store

#: ``skip`` is what a stage with an unmet ``when`` will be.
PlanStatus = Literal["hit", "resume", "run", "skip"]


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan. ``key`` is None where it depends on an outcome not known yet."""

    stage: RecipeStage
    status: PlanStatus
    reason: str
    key: str | None
    preimage: Preimage | None
    record: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints; costs are null unless an earlier run measured them."""
        metrics = self.record["metrics"] if self.record else {}
        return {
            "id": self.stage.id,
            "uses": self.stage.uses,
            "status": self.status,
            "reason": self.reason,
            "key": self.key,
            "params": metrics.get("params"),
            "macs": metrics.get("macs"),
            "seconds": self.record["seconds"] if self.record else None,
            "memory_bytes": None,
        }


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe in order, against one store."""

    recipe: Recipe
    stages: list[PlannedStage] = field(default_factory=list)

    @property
    def all_hits(self) -> bool:
        """True when nothing needs to run."""
        return all(stage.status == "hit" for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.recipe.name, "stages": [stage.as_dict() for stage in self.stages]}


def make_plan(recipe: Recipe, store: Store, keys: KeyMaker) -> Plan:
    """Walk the recipe from its first stage; a stage behind one that must run has no key yet."""
    plan = Plan(recipe)
    previous = _previous_preimages(store, recipe.name)
    upstream: str | None = None
    artifacts: dict[str, str] = {}
    waiting_for: str | None = None
    for stage in recipe.stages:
        if waiting_for is not None:
            plan.stages.append(PlannedStage(stage, "run", f"follows `{waiting_for}`, which runs", None, None))
            continue
        planned = plan_stage(stage, upstream, artifacts, store, keys, previous.get(stage.id))
        plan.stages.append(planned)
        if planned.status == "hit" and planned.record is not None:
            upstream = artifacts[stage.id] = planned.record["artifact"]
        else:
            waiting_for = stage.id
    return plan


def plan_stage(
    stage: RecipeStage,
    upstream: str | None,
    artifacts: Mapping[str, str],
    store: Store,
    keys: KeyMaker,
    previous: Preimage | None = None,
) -> PlannedStage:
    """Look one stage up.

    Args:
        stage: what runs.
        upstream: digest of the artifact it receives, None for the first stage.
        artifacts: digests of all earlier stages by id.
        store: where to look.
        keys: of the recipe.
        previous: its preimage in the last run, to say what changed.
    """
    preimage = keys.preimage(stage, upstream, artifacts)
    key = key_of(preimage)
    record = store.action(key) if stage.cache else None
    if record is not None:
        faults = store.verify(record["artifact"])
        if not faults:
            return PlannedStage(stage, "hit", f"same key {key[:8]}", key, preimage, record)
        return PlannedStage(stage, "run", f"its artifact is damaged: {faults[0]}", key, preimage)
    progress = store.has_work(key)
    if progress is not None:
        return PlannedStage(stage, "resume", _resume_reason(progress), key, preimage)
    reason = _changes(previous, preimage) if stage.cache else "`cache: false`"
    return PlannedStage(stage, "run", reason, key, preimage)


def _resume_reason(progress: dict[str, Any]) -> str:
    epoch, epochs = progress.get("epoch"), progress.get("epochs")
    return "from a snapshot" if epoch is None else f"from the snapshot after epoch {epoch} of {epochs}"


def _previous_preimages(store: Store, name: str) -> dict[str, Preimage]:
    """Stage id to preimage in the newest finished run of the same recipe name."""
    for run in store.runs():
        if run.result is None or run.result.get("name") != name:
            continue
        found: dict[str, Preimage] = {}
        for stage in run.result["stages"]:
            record = store.action(stage["key"]) if stage["key"] else None
            if record is not None:
                found[stage["id"]] = record["preimage"]
        return found
    return {}


def _changes(previous: Preimage | None, now: Preimage) -> str:
    if previous is None:
        return "never run before"
    changed = [_describe(path, old, new) for path, old, new in differences(previous, now)]
    if not changed:
        return "its record is gone from the store"
    shown = "; ".join(changed[:2])
    return shown if len(changed) <= 2 else f"{shown}; and {len(changed) - 2} more"


def _describe(path: str, old: Any, new: Any) -> str:
    short_old, short_new = str(old), str(new)
    if len(short_old) > 24 or len(short_new) > 24:
        return f"{path} changed"
    return f"{path} {short_old} -> {short_new}"


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ between two preimages, as ``(dotted path, old, new)``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[tuple[str, Any, Any]] = []
        for name in sorted({*old, *new}):
            below = f"{path}.{name}" if path else name
            found += differences(old.get(name), new.get(name), below)
        return found
    return [] if old == new else [(path, old, new)]
