"""Look one stage up in the store: is it done, begun, or what has changed since it was. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.engine.keys import KeyMaker, Preimage, key_of
from mcomp.engine.plan import PlannedStage, PlanStatus
from mcomp.engine.wording import changes

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store
    from mcomp.store.runs import RunRecord


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
        upstream: digest of the artifact it receives, None for the recipe's own model.
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
            return finished(stage, "hit", f"same key {key[:8]}", key, preimage, record)
        return PlannedStage(stage, "run", f"its artifact is damaged: {faults[0]}", key, preimage, token=key)
    progress = store.has_work(key)
    if progress is not None:
        return PlannedStage(stage, "resume", _resume_reason(progress), key, preimage, token=key)
    reason = _changes(previous, preimage) if stage.cache else "`cache: false`"
    unsure = keys.code(stage).unsure
    if unsure:
        reason = f"never cached: nobody can tell whether {unsure} changed, which its code in this session uses"
    return PlannedStage(stage, "run", reason, key, preimage, note=reason if unsure else "", token=key)


def finished(
    stage: RecipeStage,
    status: PlanStatus,
    reason: str,
    key: str | None,
    preimage: Preimage | None,
    record: dict[str, Any],
) -> PlannedStage:
    """A stage whose record is at hand, with the costs that it measured."""
    figures: dict[str, Any] = {name: _number(record["metrics"].get(name)) for name in ("params", "macs")}
    memory = _number(record.get("peak_memory_bytes"))
    return PlannedStage(
        stage,
        status,
        reason,
        key,
        preimage,
        record,
        token=key,
        seconds=record["seconds"],
        memory_bytes=memory,
        **figures,
    )


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _resume_reason(progress: dict[str, Any]) -> str:
    epoch, epochs, step = (progress.get(name) for name in ("epoch", "epochs", "step"))
    if epoch is None:
        return "from a snapshot"
    if step:
        return f"from the snapshot in epoch {epoch + 1} of {epochs}, after step {step} of {progress.get('steps')}"
    return f"from the snapshot after epoch {epoch} of {epochs}"


def last_run(store: Store, recipe: Recipe) -> RunRecord | None:
    """The newest finished run of a recipe by this name; of a sweep's point, of the same point where there is one."""
    return newest([run for run in store.runs() if (run.result or {}).get("name") == recipe.name], recipe)


def newest(runs: Sequence[RunRecord], recipe: Recipe) -> RunRecord | None:
    """The first of ``runs`` with the recipe's own ``sweep`` values, else the first."""
    values = dict(recipe.sweep_values)
    same = (run for run in runs if ((run.result or {}).get("sweep") or {}) == values)
    return next(same, next(iter(runs), None))


def previous_preimages(store: Store, recipe: Recipe) -> dict[str, Preimage]:
    """Stage id to preimage in :func:`last_run`."""
    run = last_run(store, recipe)
    found: dict[str, Preimage] = {}
    for stage in (run.result or {}).get("stages", []) if run else []:
        record = store.action(stage["key"]) if stage["key"] else None
        if record is not None:
            found[stage["id"]] = record["preimage"]
    return found


def _changes(previous: Preimage | None, now: Preimage) -> str:
    if previous is None:
        return "never run before"
    found = [change.text for change in changes(previous, now)]
    if previous.get("upstream", {}).get("artifact") != now["upstream"].get("artifact"):
        found.append("it gets another model")
    if not found:
        return "its record is gone from the store"
    shown = "; ".join(found[:2])
    return shown if len(found) <= 2 else f"{shown}; and {len(found) - 2} more"
