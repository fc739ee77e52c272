"""Can these stages follow one another? Checked on what each says it needs, adds and takes away."""

from __future__ import annotations

from collections.abc import Sequence

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


def check_order(positions: Sequence[Position], models: Sequence[Model], faults: Faults) -> None:
    """Record every stage that cannot work where it stands, naming the other stage too.

    A stage behind one that may be skipped, or replaced by another, has to work in every case.
    """
    said: set[tuple[str, int]] = set()
    assumed: list[set[str]] = []  # per entry, what was called missing on the way to it
    for here, model in zip(positions, models, strict=True):
        heard = set() if here.source is None else set(assumed[here.source])
        for entry, stage in here.runs:
            if stage is not None:
                _needs(entry, stage, model, (heard, said), faults)
        assumed.append(heard)


def _needs(
    entry: Entry,
    stage: type[Stage],
    model: Model,
    already: tuple[set[str], set[tuple[str, int]]],
    faults: Faults,
) -> None:
    """At most one diagnostic per stage: the first trait that does not fit."""
    heard, said = already
    for trait, cause in model.lacking.items():  # the earliest culprit: moving before it is enough
        if trait in stage.traits.requires:
            if cause.how == "took":
                _taken(entry, trait, cause, faults)
            elif (trait, id(cause.by)) not in said:  # the next stage that needs it too has the same cause
                said.add((trait, id(cause.by)))
                _not_given(entry, trait, cause, faults)
            return
    for trait in sorted(stage.traits.requires):
        if trait not in model.given and trait not in heard and not model.opaque:
            heard.add(trait)  # likewise
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


def _taken(entry: Entry, trait: str, cause: Cause, faults: Faults) -> None:
    by = cause.by
    did = _WORDS[trait][1] if trait in _WORDS else f"takes `{trait}` away"
    where = " where it runs" if cause.perhaps else ""
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) needs a model {_like(trait)}, but `{by.uses}` ({by.place}) {did}{where}",
        entry.mark,
        hint=_move(entry, by),
    )


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
