"""Look one stage up in the store: is it done, begun, or what has changed since it was. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.engine.keys import KeyMaker, Preimage, key_of
from mcomp.engine.plan import PlannedStage, PlanStatus
from mcomp.engine.wording import changes, is_code

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store
    from mcomp.store.runs import RunRecord

#: Runs that are searched for the record of a stage.
SEARCHED_RUNS = 50
NEVER = "never run before"


def plan_stage(
    stage: RecipeStage,
    upstream: str | None,
    artifacts: Mapping[str, str],
    store: Store,
    keys: KeyMaker,
    previous: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> PlannedStage:
    """Look one stage up.

    Args:
        stage: what runs.
        upstream: digest of the artifact it receives, None for the recipe's own model.
        artifacts: digests of all earlier stages by id.
        store: where to look.
        keys: of the recipe.
        previous: asked for its newest record where it has to run, to say what changed.
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
    reason = _changes(previous(), stage, preimage, keys) if stage.cache else "`cache: false`"
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
        return f"from the snapshot after {step} of {progress.get('steps')}" if step else "from a snapshot"
    if step:
        return f"from the snapshot in epoch {epoch + 1} of {epochs}, after step {step} of {progress.get('steps')}"
    return f"from the snapshot after epoch {epoch} of {epochs}"


def last_run(store: Store, recipe: Recipe) -> RunRecord | None:
    """The newest finished run of a recipe by this name; of a sweep's point, of the same point where there is one."""
    return newest([run for run in store.runs() if run.is_of(recipe.name)], recipe)


def newest(runs: Sequence[RunRecord], recipe: Recipe) -> RunRecord | None:
    """The first of ``runs`` with the recipe's own ``sweep`` values, else the first."""
    values = dict(recipe.sweep_values)
    same = (run for run in runs if run.sweep == values)
    return next(same, next(iter(runs), None))


def earlier_runs(store: Store, recipe: Recipe) -> list[RunRecord]:
    """The newest runs of a recipe by this name, however they ended; those of the same point of a sweep first."""
    runs = [run for run in store.runs() if run.is_of(recipe.name)][:SEARCHED_RUNS]
    values = dict(recipe.sweep_values)
    return sorted(runs, key=lambda run: run.sweep != values)


def previous_record(
    store: Store, recipe: Recipe, runs: Sequence[RunRecord], stage: RecipeStage
) -> dict[str, Any] | None:
    """The first record of a stage in these runs.

    Where another stage may run in this one's place, only what the very same stage made counts.
    """
    entry = next((one for one in recipe.stages if one.id == stage.id), stage)
    for run in runs:
        for seen in run.stages:
            if seen["id"] != stage.id or not seen["key"]:
                continue
            if seen["uses"] != stage.uses and not isinstance(entry.otherwise, str):
                continue
            record = store.action(seen["key"])
            if record is not None:
                return record
    return None


def _changes(previous: Mapping[str, Any] | None, stage: RecipeStage, now: Preimage, keys: KeyMaker) -> str:
    if previous is None:
        return NEVER
    before: Preimage = previous["preimage"]
    found = changes(before, now)
    other = [change.text for change in found if change.place == "stage"]
    if other:  # whatever else differs follows from that
        return other[0]
    if any(is_code(change.place) for change in found):  # only then are the files of the code asked for
        found = changes(before, now, previous.get("code"), keys.recorded(stage, now))
    drawn = [change for change in found if change.place == "seed" and stage.seed is None]
    texts = [change.text for change in found if change not in drawn]
    if before.get("upstream", {}).get("artifact") != now["upstream"].get("artifact"):
        texts.append("it gets another model")
    if drawn and not texts:  # beside another reason it says nothing: nobody chose that number
        texts.append("the seed drawn for it: the recipe's `seed`, or the stages before it, changed")
    if not texts:
        return "its record is gone from the store"
    shown = "; ".join(texts[:2])
    return shown if len(texts) <= 2 else f"{shown}; and {len(texts) - 2} more"
