"""What is known of a model between two stages, from what each says that it adds and takes away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mcomp.recipe.stage_entries import Entry
from mcomp.stages.base import Stage, Surroundings

if TYPE_CHECKING:
    from mcomp.recipe.branches import Branches

FRESH = frozenset({"float", "bn"})

#: Kind of surgery in an artifact's log to the stage whose traits it leaves behind.
_SURGEONS = {"prune": "prune", "sparsify": "sparsify", "quantize": "quantize", "fuse": "bn_fuse"}


def traits_after(surgery: Iterable[str]) -> frozenset[str]:
    """The traits of a model that starts from an artifact with this surgery log; of a fresh one without."""
    from mcomp.stages import registry

    have = set(FRESH)
    for kind in surgery:
        if kind in _SURGEONS:
            traits = registry.get(_SURGEONS[kind]).traits
            have = (have - set(traits.destroys)) | set(traits.provides)
    return frozenset(have)


@dataclass(frozen=True)
class Position:
    """One entry of the list, as far as the order of stages is concerned.

    Attributes:
        source: place of the stage whose model it gets; None for the recipe's own model.
        runs: what may run here, each with its class, None where that is unknown; empty where nothing ever does.
        skips: it may hand on the model of its source as it is.
        off: the stage that `when: false` turns off.
        lost: nothing is known of the model that it gets.
    """

    source: int | None
    runs: tuple[tuple[Entry, type[Stage] | None], ...]
    skips: bool = False
    off: tuple[Entry, type[Stage] | None] | None = None
    lost: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages that may run here."""
        return tuple(dict.fromkeys(entry.uses or "" for entry, _ in self.runs))


@dataclass(frozen=True)
class Cause:
    """Why a model lacks a trait, or may lack it.

    Attributes:
        by: the stage that took it away; that would have given it, where ``how`` is another.
        how: `took`, or `skipped`, `off` or `instead` where ``by`` did not run.
        instead: what ran in its place.
        perhaps: it is so only where ``by`` runs.
    """

    by: Entry
    how: Literal["took", "skipped", "off", "instead"] = "took"
    instead: Entry | None = None
    perhaps: bool = False


@dataclass
class Model:
    """What is known of a model between two stages.

    ``given`` are the traits that it has or may have, and who gave them; ``lacking`` those that it lacks or may lack,
    and why. ``opaque``: an unknown stage came by; nothing it may have done is held against a later one.
    """

    given: dict[str, Entry | None]
    lacking: dict[str, Cause] = field(default_factory=dict)
    opaque: bool = False

    @property
    def certain(self) -> frozenset[str]:
        """The traits that it has whatever was skipped."""
        return frozenset(self.given.keys() - self.lacking.keys())

    @property
    def possible(self) -> frozenset[str]:
        """The traits that it has or may have."""
        return frozenset(self.given)

    def when(self) -> str:
        """When it lacks something that it may have, in words; empty where nothing depends on a condition."""
        cause = next((self.lacking[trait] for trait in self.given if trait in self.lacking), None)
        if cause is None:
            return ""
        place = f"`{cause.by.uses}` ({cause.by.place})"
        if cause.instead is not None:
            return f"when `{cause.instead.uses}` ({cause.instead.place}) runs in place of {place}"
        return f"when {place} {'runs' if cause.how == 'took' else 'is skipped'}"

    def through(self, entry: Entry, stage: type[Stage] | None) -> Model:
        """What a stage makes of it."""
        if stage is None:
            return Model(given={}, opaque=True)
        found = Model(dict(self.given), dict(self.lacking), self.opaque)
        for trait in sorted(stage.traits.destroys):
            if trait in found.given or trait not in found.lacking:
                found.given.pop(trait, None)
                found.lacking.pop(trait, None)
                found.lacking[trait] = Cause(entry)
        for trait in stage.traits.provides:
            found.given[trait] = entry
            found.lacking.pop(trait, None)
        return found


#: What ran, and the model after it; None where the model of the source was handed on.
_Outcome = tuple[Entry | None, Model]


def flow(positions: Sequence[Position], start: frozenset[str] = FRESH) -> list[Model]:
    """What is known of the model that each entry gets, along the branches.

    Args:
        positions: the recipe's stages.
        start: traits of the recipe's own model.
    """
    incoming: list[Model] = []
    outgoing: list[Model] = []
    for here in positions:
        model = Model(dict.fromkeys(start)) if here.source is None else outgoing[here.source]
        if here.lost:
            model = Model(given={}, opaque=True)
        incoming.append(model)
        outcomes: list[_Outcome] = [(entry, model.through(entry, stage)) for entry, stage in here.runs]
        if here.skips or not outcomes:
            outcomes.append((None, model))
        outgoing.append(_merged(outcomes, here))
    return incoming


def surroundings(positions: Sequence[Position], branches: Branches, models: Sequence[Model]) -> list[Surroundings]:
    """For every entry, what stands before and after it on its path, and the traits that its model surely has."""

    def names(places: Iterable[int]) -> tuple[str, ...]:
        return tuple(name for place in places for name in positions[place].names)

    return [
        Surroundings(names(branches.before(place)), names(branches.after(place)), model.certain)
        for place, model in enumerate(models)
    ]


def _merged(outcomes: Sequence[_Outcome], here: Position) -> Model:
    """What is known when any of several things may have happened to a model."""
    models = [model for _, model in outcomes]
    found = Model({}, opaque=any(model.opaque for model in models))
    for model in models:
        for trait, by in model.given.items():
            found.given.setdefault(trait, by)
    for trait in dict.fromkeys([*(one for model in models for one in model.lacking), *found.given]):
        cause = _why_lacking(trait, outcomes)
        if cause is not None:
            found.lacking[trait] = cause
    if here.off is not None and here.off[1] is not None:
        for trait in here.off[1].traits.provides:
            if trait not in found.given:
                found.lacking.setdefault(trait, Cause(here.off[0], "off"))
    return found


def _why_lacking(trait: str, outcomes: Sequence[_Outcome]) -> Cause | None:
    """Why a trait may be lacking; None where every outcome has it."""
    giver = next(
        (runner for runner, model in outcomes if runner is not None and model.given.get(trait) is runner), None
    )
    having = [model for _, model in outcomes if trait in model.certain]
    for runner, model in outcomes:
        cause = model.lacking.get(trait)
        if trait in model.certain or (cause is None and model.opaque):
            continue
        if cause is not None and cause.by is runner:
            return replace(cause, perhaps=bool(having) or cause.perhaps)
        if giver is not None:
            return Cause(giver, "skipped") if runner is None else Cause(giver, "instead", runner)
        if cause is not None:
            return cause
    return None
