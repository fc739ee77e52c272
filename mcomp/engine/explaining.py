"""Why a stage is a hit or not: what its key is made of, and what differs from an earlier run. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from mcomp.engine.keys import KeyMaker, Preimage
from mcomp.engine.lookup import NEVER, newest
from mcomp.engine.planning import Plan, PlannedStage, make_plan
from mcomp.engine.wording import Change, changes
from mcomp.errors import UsageError
from mcomp.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store
    from mcomp.store.runs import RunRecord

LATEST = "latest"
#: Stands for the digest of an artifact that is still to be made.
UNKNOWN = "not made yet"


@dataclass(frozen=True)
class Cause:
    """A stage upstream that differs, or runs again, and therefore changes what comes after it."""

    stage: str
    text: str
    changes: list[Change] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"stage": self.stage, "text": self.text, "changes": [change.as_dict() for change in self.changes]}


@dataclass(frozen=True)
class Explanation:
    """All that is known of one stage's key.

    Attributes:
        id: of the stage.
        uses: its name.
        status: what a run would do: ``hit``, ``resume``, ``run`` or ``skip``.
        reason: why.
        key: None where it depends on an artifact that is not made yet.
        components: the preimage; an artifact that is not made yet stands as :data:`UNKNOWN`.
        code: version, digest and files of the code behind each part.
        run: the run it is compared with; None where the store holds none.
        old_key: the stage's key there.
        changes: components that differ, the incoming artifact apart.
        causes: stages upstream that differ, the first of them first.
        notes: what else has to be said, in sentences.
    """

    id: str
    uses: str
    status: str
    reason: str
    key: str | None
    components: Preimage
    code: dict[str, Any]
    run: str | None = None
    old_key: str | None = None
    changes: list[Change] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def same_key(self) -> bool:
        """Whether the stage would get the very key that it had in :attr:`run`."""
        return self.key is not None and self.key == self.old_key

    def as_dict(self) -> dict[str, Any]:
        """The object that ``explain --json`` prints."""
        against = None
        if self.run is not None:
            against = {
                "run": self.run,
                "key": self.old_key,
                "same_key": self.same_key,
                "changes": [change.as_dict() for change in self.changes],
                "because": [cause.as_dict() for cause in self.causes],
            }
        return {
            "stage": self.id,
            "uses": self.uses,
            "status": self.status,
            "reason": self.reason,
            "key": self.key,
            "components": self.components,
            "code": self.code,
            "against": against,
            "notes": self.notes,
        }


def explain(recipe: Recipe, stage_id: str, store: Store, keys: KeyMaker, against: str | None = None) -> Explanation:
    """Say what a stage's key is made of, and how it differs from a run.

    Args:
        recipe: a recipe without a sweep, or one of its variants.
        stage_id: of the stage.
        store: where the earlier run is.
        keys: of the recipe.
        against: a run's id or the beginning of it; None or ``latest`` for the newest that has the stage.

    Raises:
        UsageError: MC290 no such stage; MC291 no such run.
    """
    plan = make_plan(recipe, store, keys)
    found = next((planned for planned in plan.stages if planned.stage.id == stage_id), None)
    if found is None:
        ids = [stage.id for stage in recipe.stages]
        meant = did_you_mean(stage_id, ids)
        raise UsageError(
            f"recipe `{recipe.name}` has no stage `{stage_id}`{f'; {meant}' if meant else ''}",
            code="MC290",
            hint=f"its stages are {listed(ids)}",
        )
    run = None if found.status == "skip" else _chosen(store, recipe, found.stage, against)
    if run is not None and found.reason.startswith(NEVER):
        words = (
            "no record of it is in the store"
            if run.is_of(recipe.name)
            else f"no run of `{recipe.name}` has a record of it"
        )
        found = replace(found, reason=found.reason.replace(NEVER, words, 1))
    return _Comparison(plan, store, keys, run).explanation(found)


def _chosen(store: Store, recipe: Recipe, stage: RecipeStage, against: str | None) -> RunRecord | None:
    """The run to compare with; of several the newest, those of this recipe's name before others."""
    finished, stage_id = [run for run in store.runs() if run.result is not None], stage.id
    if against not in (None, LATEST):
        return _named(finished, str(against), stage_id)
    having = [run for run in finished if _outcome(run, stage_id) is not None]
    kept = [run for run in having if store.action(_key_in(run, stage_id)) is not None] or having
    if not isinstance(next(one for one in recipe.stages if one.id == stage_id).otherwise, str):
        # one of two stages ran there: what the other one made says nothing of this one
        kept = [run for run in kept if (_outcome(run, stage_id) or {})["uses"] == stage.uses]
    own = [run for run in kept if run.is_of(recipe.name)]
    if not having and against is not None:
        raise UsageError(
            f"no run in `{store.root}` computed a stage `{stage_id}`", code="MC291", hint="`mcomp runs` lists the runs"
        )
    return newest(own or kept, recipe)


def _named(finished: list[RunRecord], wanted: str, stage_id: str) -> RunRecord:
    found = [run for run in finished if run.id == wanted] or [run for run in finished if run.id.startswith(wanted)]
    ids = [run.id for run in finished]
    if not found:
        meant = did_you_mean(wanted, ids)
        message = f"no finished run has an id that begins with `{wanted}`{f'; {meant}' if meant else ''}"
        raise UsageError(message, code="MC291", hint="`mcomp runs` lists them; `latest` is the newest")
    if len(found) > 1:
        message = f"{len(found)} runs begin with `{wanted}`: {listed([run.id for run in found], 3)}"
        raise UsageError(message, code="MC291", hint="give more of the id")
    if _outcome(found[0], stage_id) is None:
        message = f"run `{found[0].id}` did not compute a stage `{stage_id}`"
        there = [stage["id"] for stage in found[0].stages if stage.get("key")]
        raise UsageError(message, code="MC291", hint=f"it computed {listed(there) or 'none'}")
    return found[0]


def _outcome(run: RunRecord, stage_id: str) -> dict[str, Any] | None:
    return next((one for one in run.stages if one["id"] == stage_id and one.get("key")), None)


def _key_in(run: RunRecord, stage_id: str) -> str:
    outcome = _outcome(run, stage_id)
    assert outcome is not None
    return str(outcome["key"])


class _Comparison:
    """One plan beside one run."""

    def __init__(self, plan: Plan, store: Store, keys: KeyMaker, run: RunRecord | None) -> None:
        self.plan = plan
        self.store = store
        self.keys = keys
        self.run = run

    def explanation(self, planned: PlannedStage) -> Explanation:
        stage = planned.stage
        now = self._now(planned)
        code = self.keys.recorded(stage, now)
        notes = []
        if not stage.cache:
            notes.append("the recipe says `cache: false`: it runs every time, whatever its key")
        made = Explanation(stage.id, stage.uses, planned.status, planned.reason, planned.key, now, code, notes=notes)
        if planned.status == "skip":
            notes.append("a skipped stage has no key: there is nothing to compare")
            return made
        if self.run is None:
            notes.append(f"no run in `{self.store.root}` computed `{stage.id}`: there is nothing to compare with")
            return made
        old_key, then = _key_in(self.run, stage.id), self._record(stage.id)
        differing: list[Change] = []
        causes: list[Cause] = []
        if then is None and old_key != planned.key:
            notes.append(f"the record of run {self.run.id} is gone from the store: only the keys can be compared")
        elif then is not None and old_key != planned.key:
            differing = changes(then["preimage"], now, then.get("code"), code)
            causes = self._causes(planned, stage.id, then["preimage"], now)
        elif planned.status != "hit":
            notes.append(f"nothing differs, and it runs all the same: {planned.reason}")
        return Explanation(
            **{**vars(made), "run": self.run.id, "old_key": old_key, "changes": differing, "causes": causes}
        )

    def _now(self, planned: PlannedStage) -> Preimage:
        if planned.preimage is not None:
            return planned.preimage
        giver = self.plan.giver(planned)
        upstream = None if giver is None else _artifact(giver)
        wanted = planned.stage.cls.reads(planned.stage.options)
        return self.keys.preimage(planned.stage, upstream, {name: _artifact(self.plan[name]) for name in wanted})

    def _record(self, stage_id: str) -> dict[str, Any] | None:
        if self.run is None or _outcome(self.run, stage_id) is None:
            return None
        return self.store.action(_key_in(self.run, stage_id))

    def _causes(self, planned: PlannedStage, old_id: str, old: Preimage, new: Preimage) -> list[Cause]:
        """Stages upstream of one that was ``old_id`` in the run that differ, the first in the recipe first."""
        before, after = old["upstream"].get("artifact"), new["upstream"].get("artifact")
        giver = self.plan.giver(planned)
        if giver is None or after is None or before == after:
            return []
        stage, source = planned.stage, giver.stage
        if before is None:
            return [Cause(source.id, f"`{stage.id}` started from the recipe's own model, and follows it now")]
        made_it = self._makers(before, old_id)
        same = self._counterpart(source, made_it)
        if same is None:
            return [Cause(source.id, f"`{stage.id}` followed `{made_it[-1]['id'] if made_it else before[:12]}`")]
        then = self._record(same)
        if then is None:
            return [Cause(source.id, "its record of that run is gone from the store")]
        now = self._now(giver)
        causes = self._causes(giver, same, then["preimage"], now)
        own = changes(then["preimage"], now, then.get("code"), self.keys.recorded(source, now))
        if own:
            causes.append(Cause(source.id, "; ".join(change.text for change in own), own))
        elif not causes:
            causes.append(Cause(source.id, self._again(giver, then)))
        return causes

    def _again(self, planned: PlannedStage, then: dict[str, Any]) -> str:
        """Why a stage that did not change hands on another artifact."""
        if planned.record is None:
            return f"it runs again: {planned.reason}"
        threads = then.get("threads"), planned.record.get("threads")
        why = f" (threads {threads[0]} -> {threads[1]})" if threads[0] != threads[1] else ""
        return f"under the same key it made another artifact{why}"

    def _makers(self, artifact: str, before: str) -> list[dict[str, Any]]:
        """The stages ahead of ``before`` that handed this artifact on, in that run."""
        stages = self.run.stages if self.run else []
        ahead = takewhile(lambda stage: stage["id"] != before, stages)
        return [stage for stage in ahead if stage.get("artifact") == artifact]

    def _counterpart(self, source: RecipeStage, made_it: list[dict[str, Any]]) -> str | None:
        """The id in that run of what is ``source`` now: its own, or that of a stage that was given another id."""
        ids = {planned.stage.id for planned in self.plan.stages}
        if any(stage["id"] == source.id for stage in made_it):
            return source.id
        renamed = [stage for stage in made_it if stage["id"] not in ids and stage.get("uses") == source.uses]
        return str(renamed[-1]["id"]) if renamed else None


def _artifact(planned: PlannedStage) -> str:
    return UNKNOWN if planned.record is None else str(planned.record["artifact"])
