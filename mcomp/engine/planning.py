"""Which stages are cached, which go on from a snapshot, which run or are skipped, and why. No torch.

``plan`` and ``apply`` take the same :class:`Walk` along a recipe; ``apply`` tells it what each stage made before it
asks for the next, ``plan`` goes on with what the store knows.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mcomp.engine.conditions import Decision, Facts, decide
from mcomp.engine.gates import check_gate
from mcomp.engine.keys import KeyMaker, key_of
from mcomp.engine.lookup import earlier_runs, plan_stage, previous_record
from mcomp.engine.plan import Plan, PlannedStage
from mcomp.engine.results import GateOutcome
from mcomp.engine.summary import gate_text
from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.stages.base import Metrics
    from mcomp.store import Store
    from mcomp.store.runs import RunRecord

__all__ = ["Known", "Plan", "PlannedStage", "Walk", "make_plan", "share"]


def make_plan(recipe: Recipe, store: Store, keys: KeyMaker) -> Plan:
    """Walk the recipe with what the store knows; a stage behind one that must run has no key yet.

    Raises:
        StoreError: MC304, where the store should be lies something else.
    """
    if not store.exists():
        store.refuse_foreign_folder()
    walk = Walk(recipe, store, keys, compare=True, tokens=bool(recipe.sweep_values))
    plan = Plan(recipe)
    for entry in recipe.stages:
        try:
            planned = walk.look(entry)
        except StageError as error:
            planned = PlannedStage(entry, "run", f"fails: {error.message}", None, None, token=_unique())
        walk.note(entry, planned)
        if planned.status == "hit" and (failed := _failed_gate(walk, entry, planned)):
            planned = replace(planned, reason=f"{planned.reason}; the run ends here: {failed}")
            walk.ended = f"the run ends at `{entry.id}`"
        plan.stages.append(planned)
    return plan


def _failed_gate(walk: Walk, entry: RecipeStage, planned: PlannedStage) -> str:
    """The gate that the cached figures do not hold, in words; empty where all hold."""
    try:
        failed = [gate for gate in walk.gates(entry, planned) if not gate.passed]
    except StageError as error:
        return error.message
    return f"a gate fails, {gate_text(failed[0].as_dict())}" if failed else ""


def share(plans: Sequence[Plan]) -> list[Plan]:
    """The plans of a sweep's runs, each knowing which of its stages an earlier run will have made."""
    made: dict[str, int] = {}
    found = []
    for number, plan in enumerate(plans, 1):
        stages = []
        for planned in plan.stages:
            first = made.setdefault(planned.token, number) if _makes(planned) and planned.token else number
            if first < number:
                planned = replace(planned, shared=first, reason=f"run {first} of this sweep makes it")
            stages.append(planned)
        found.append(replace(plan, stages=stages))
    return found


def _makes(planned: PlannedStage) -> bool:
    return planned.status in ("run", "resume") and planned.stage.cache


@dataclass(frozen=True)
class Known:
    """What is known of a stage once it was looked at.

    Attributes:
        artifact: digest of what it hands on; None for the recipe's own model, or while ``pending``.
        metrics: None while ``pending``.
        pending: id of the stage that has to run first.
        token: stands for the artifact while that is not known.
    """

    artifact: str | None = None
    metrics: Metrics | None = None
    pending: str | None = None
    token: str | None = None


#: Before the first stage: the recipe's own model, of which nothing was measured.
_START = Known(metrics={})


class Walk:
    """Goes along a recipe and decides each stage from what those before it handed on.

    Args:
        recipe: the validated recipe.
        store: where finished actions are looked up.
        keys: of the recipe.
        compare: say of a miss what changed since it last ran; costs reading earlier runs.
        tokens: of a stage behind one that must run, tell what it would compute from what another run's would; costs
            the digests of its code.
    """

    def __init__(
        self, recipe: Recipe, store: Store, keys: KeyMaker, *, compare: bool = False, tokens: bool = False
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.keys = keys
        self.ended = ""
        self._compare = compare
        self._tokens = tokens
        self.known: dict[str, Known] = {}

    @property
    def metrics(self) -> dict[str, Metrics | None]:
        """What each stage seen so far reported, by id; a skipped one has the figures of its source."""
        return {name: known.metrics for name, known in self.known.items()}

    @property
    def artifacts(self) -> dict[str, str]:
        """Digest of what each stage seen so far handed on, where there is one."""
        return {name: known.artifact for name, known in self.known.items() if known.artifact is not None}

    def given(self, stage: RecipeStage) -> Known:
        """What is known of the model that a stage receives."""
        return _START if stage.source is None else self.known[stage.source]

    def look(self, entry: RecipeStage) -> PlannedStage:
        """What to do with the next stage.

        Raises:
            StageError: MC502, its condition asks for a figure that an earlier stage did not report.
        """
        if self.ended:
            return PlannedStage(entry, "skip", self.ended, None, None, note=self.ended)
        decision = decide(entry.when, self.metrics, self._facts)
        if decision.holds is None:
            return PlannedStage(entry, "run", decision.text, None, None, token=_unique())
        if decision.holds:
            return self._planned(entry)
        if isinstance(entry.otherwise, str):
            return _unmet(entry, entry.otherwise, decision)
        note = f"`{entry.otherwise.uses}`, its `otherwise`, instead of `{entry.uses}`: {decision.text}"
        planned = self._planned(entry.otherwise)
        return replace(planned, note=note, reason=f"{planned.reason}; {note}")

    def note(self, entry: RecipeStage, planned: PlannedStage) -> None:
        """Remember what a stage that was looked at hands on; its record says so, where there is one."""
        if planned.ends:
            self.ended = f"the run ends at `{entry.id}`"
        if planned.status == "skip":
            self.known[entry.id] = self.given(entry)
        elif planned.record is not None:
            record = planned.record
            self.known[entry.id] = Known(record["artifact"], record["metrics"], token=record["artifact"])
        else:
            self.known[entry.id] = Known(pending=entry.id, token=planned.token)

    def gates(self, entry: RecipeStage, planned: PlannedStage) -> list[GateOutcome]:
        """The gates of a stage that has its figures: the entry's own, and those of what ran in its place.

        Raises:
            StageError: MC501, a gate asks for a figure that was not reported.
        """
        gates = entry.gates if planned.stage is entry else [*entry.gates, *planned.stage.gates]
        metrics = {name: found for name, found in self.metrics.items() if found is not None}
        return [outcome for gate in gates for outcome in check_gate(gate, entry.id, metrics)]

    @cached_property
    def _facts(self) -> Facts:
        from mcomp.training.hardware import resolve_device

        return Facts(resolve_device(self.recipe.device))

    @cached_property
    def _runs(self) -> list[RunRecord]:
        return earlier_runs(self.store, self.recipe) if self._compare else []

    def _planned(self, stage: RecipeStage) -> PlannedStage:
        given = self.given(stage)
        if given.pending is not None:
            text = f"follows `{given.pending}`, which runs"
            return PlannedStage(stage, "run", text, None, None, token=self._token(stage))
        for wanted in stage.cls.reads(stage.options):
            if wanted in self.known and self.known[wanted].pending is not None:
                text = f"reads `{wanted}`, which runs"
                return PlannedStage(stage, "run", text, None, None, token=self._token(stage))
        return plan_stage(
            stage,
            given.artifact,
            self.artifacts,
            self.store,
            self.keys,
            lambda: previous_record(self.store, self.recipe, self._runs, stage),
        )

    def _token(self, stage: RecipeStage) -> str:
        """A key made of tokens, where those of artifacts are not known yet."""
        if not self._tokens:
            return _unique()
        tokens = {name: known.token for name, known in self.known.items() if known.token is not None}
        return key_of(self.keys.preimage(stage, self.given(stage).token, tokens))


def _unique() -> str:
    """The token of a stage of which nobody knows whether it runs: two of them must not pass for the same."""
    return secrets.token_hex(8)


def _unmet(entry: RecipeStage, otherwise: Literal["skip", "stop", "fail"], decision: Decision) -> PlannedStage:
    words = {"skip": "skipped", "stop": "ends the run here", "fail": "fails the run here"}
    ends: Literal["", "stop", "fail"] = "" if otherwise == "skip" else otherwise
    note = f"{words[otherwise]}: {decision.text}"
    return PlannedStage(entry, "skip", note, None, None, note=note, ends=ends, unmet=decision.text)
