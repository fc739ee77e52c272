"""Can these stages follow one another? Checked on what each says it needs, adds and takes away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.stage_entries import Entry
from mcomp.recipe.traits import Cause, Model, Position
from mcomp.stages.base import Stage
from mcomp.suggest import listed

#: trait: (what a model that has it is like, what was done to it that took it away, what was done that gave it)
_WORDS = {
    "float": ("whose weights are floating-point", "quantised them", "made them so"),
    "bn": ("whose batch norms are not folded", "folded them", "put them in"),
    "quantized": ("that is quantised", "undid that", "quantised it"),
    "pruned": ("that is pruned", "undid that", "pruned it"),
    "fused": ("whose batch norms are folded", "undid that", "folded them"),
    "folded": ("whose batch norms are folded", "undid that", "folded them"),
    "sparse": ("that was trained towards sparsity", "undid that", "trained it so"),
    "onnx": ("that was written as ONNX already", "undid that", "wrote it"),
    "engine": ("that was built into an engine already", "undid that", "built it"),
    "calibrated": ("that is calibrated", "undid that", "calibrated it"),
}


@dataclass
class _Loss:
    """A trait that one stage took away, and the stages behind it that need it: each with its place in the list."""

    trait: str
    cause: Cause
    suffering: list[tuple[int, Entry]] = field(default_factory=list)


@dataclass
class _Told:
    """What needs no second word: the next stage with the same need has the same cause."""

    lost: dict[tuple[str, int], _Loss] = field(default_factory=dict)
    not_given: set[tuple[str, int]] = field(default_factory=set)


def check_order(positions: Sequence[Position], models: Sequence[Model], faults: Faults) -> dict[int, frozenset[str]]:
    """Record every stage that cannot work where it stands, naming the other stage too.

    A stage behind one that may be skipped, or replaced by another, has to work in every case.

    Returns:
        For a place that a stage further down has to be moved before: the traits that the model would then have more.
    """
    told = _Told()
    assumed: list[set[str]] = []  # per entry, what was called missing on the way to it
    for place, (here, model) in enumerate(zip(positions, models, strict=True)):
        heard = set() if here.source is None else set(assumed[here.source])
        for entry, stage in here.runs:
            if stage is not None:
                _needs((place, entry), stage, model, heard, told, faults)
        assumed.append(heard)
    moved: dict[int, frozenset[str]] = {}
    for loss in told.lost.values():
        _taken(loss, positions, faults)
        for place, gained in _moved(loss, positions):
            moved[place] = moved.get(place, frozenset()) | gained
    return moved


def _needs(
    here: tuple[int, Entry], stage: type[Stage], model: Model, heard: set[str], told: _Told, faults: Faults
) -> None:
    """At most one diagnostic per stage: the first trait that does not fit."""
    entry = here[1]
    for trait, cause in model.lacking.items():  # the earliest culprit: moving before it is enough
        if trait in stage.traits.requires:
            if cause.how == "took":
                told.lost.setdefault((trait, id(cause.by)), _Loss(trait, cause)).suffering.append(here)
            elif (trait, id(cause.by)) not in told.not_given:
                told.not_given.add((trait, id(cause.by)))
                _not_given(entry, trait, cause, faults)
            return
    for trait in sorted(stage.traits.requires):
        if trait not in model.given and trait not in heard and not model.opaque:
            heard.add(trait)
            _never(entry, trait, faults)
            return
    for trait in sorted(stage.traits.conflicts):
        giver = model.given.get(trait)
        if giver is not None:
            _conflict(entry, trait, giver, trait in model.lacking, faults)
            return
        if trait in model.given:
            like = _like(trait)
            faults.error(
                "MC113", f"`{entry.uses}` ({entry.place}) cannot take a model {like}, as the first one is", entry.mark
            )
            return


def _taken(loss: _Loss, positions: Sequence[Position], faults: Faults) -> None:
    trait, cause, by = loss.trait, loss.cause, loss.cause.by
    _, entry = loss.suffering[0]
    did = _WORDS[trait][1] if trait in _WORDS else f"takes `{trait}` away"
    where = " where it runs" if cause.perhaps else ""
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) needs a model {_like(trait)}, but `{by.uses}` ({by.place}) {did}{where}",
        entry.mark,
        hint=_move_behind_all(loss, positions) or _move(entry, by),
    )


def _moved(loss: _Loss, positions: Sequence[Position]) -> Iterator[tuple[int, frozenset[str]]]:
    """The places between the culprit and each stage that suffers, and what that stage gives."""
    by = loss.cause.by
    start = next((place for place, one in enumerate(positions) if any(entry is by for entry, _ in one.runs)), 0)
    for end, sufferer in loss.suffering:
        stage = next(stage for entry, stage in positions[end].runs if entry is sufferer)
        if stage is not None:
            for place in range(start + 1, end):
                yield place, frozenset(stage.traits.provides)


def _move_behind_all(loss: _Loss, positions: Sequence[Position]) -> str:
    """Where the culprit belongs when several stages suffer; empty where no place is right for all of them."""
    by = loss.cause.by
    (_, first), (end, last) = loss.suffering[0], loss.suffering[-1]
    start = next((place for place, one in enumerate(positions) if one.runs and one.runs[0][0] is by), None)
    if start is None or first is last or first.uses == by.uses:
        return ""
    again = next((entry for _, entry in loss.suffering if entry.uses == by.uses), None)
    if again is not None:
        return f"remove `{by.uses}` ({by.place}): another one follows ({again.place})"
    culprit = positions[start].runs[0][1]
    for place in range(start + 1, end + 1):
        here = positions[place]
        needs = {trait for _, stage in here.runs if stage is not None for trait in stage.traits.requires}
        if here.source != place - 1 or culprit is None or needs & set(culprit.traits.provides):
            return ""
    return f"move `{by.uses}` after `{last.uses}` ({last.place})"


def _not_given(entry: Entry, trait: str, cause: Cause, faults: Faults) -> None:
    by, instead = cause.by, cause.instead
    giver = f"`{by.uses}` ({by.place})"
    if cause.how == "off":
        why = f"{giver}, which would make it so, has `when: false`"
        hint = f"turn `{by.uses}` on, or give `{entry.uses}` `when: false` too"
    elif instead is None:
        why = f"it is not when {giver} is skipped"
        hint = f"let another stage do it: `otherwise: {{…}}`, or end the run there: `otherwise: stop` for `{by.uses}`"
    else:
        why = f"it is not when `{instead.uses}` ({instead.place}) runs in place of {giver}"
        hint = f"put a stage there that does it too, or write `otherwise: stop` for `{by.uses}`"
    faults.error(
        "MC113", f"`{entry.uses}` ({entry.place}) needs a model {_like(trait)}, and {why}", entry.mark, hint=hint
    )


def _move(entry: Entry, by: Entry) -> str:
    same = entry.uses == by.uses
    return f"remove one of the two `{by.uses}`" if same else f"move `{entry.uses}` before `{by.uses}`"


def _conflict(entry: Entry, trait: str, by: Entry, perhaps: bool, faults: Faults) -> None:
    did = _WORDS[trait][2] if trait in _WORDS else f"provides `{trait}`"
    where = " where it runs" if perhaps else ""
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) cannot take a model {_like(trait)}, and `{by.uses}` ({by.place}) {did}{where}",
        entry.mark,
        hint=_move(entry, by),
    )


def _never(entry: Entry, trait: str, faults: Faults) -> None:
    givers = _providers(trait)
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) needs a model {_like(trait)}, and no stage before it makes it so",
        entry.mark,
        hint=f"put {listed(givers)} before it" if givers else "",
    )


def _like(trait: str) -> str:
    return _WORDS[trait][0] if trait in _WORDS else f"with the trait `{trait}`"


def _providers(trait: str) -> list[str]:
    from mcomp.stages import registry

    return [name for name in registry.names() if trait in registry.get(name).traits.provides]
