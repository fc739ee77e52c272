"""Can these stages follow one another? Checked on what each says it needs, adds and takes away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.stage_entries import Entry
from mcomp.stages.base import Stage, Surroundings
from mcomp.suggest import listed

FRESH = frozenset({"float", "bn"})

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


#: Kind of surgery in an artifact's log to the stage whose traits it leaves behind.
_SURGEONS = {"prune": "prune", "quantize": "quantize", "fuse": "bn_fuse"}


def traits_after(surgery: Iterable[str]) -> frozenset[str]:
    """The traits of a model that starts from an artifact with this surgery log; of a fresh one without."""
    from mcomp.stages import registry

    have = set(FRESH)
    for kind in surgery:
        if kind in _SURGEONS:
            traits = registry.get(_SURGEONS[kind]).traits
            have = (have - set(traits.destroys)) | set(traits.provides)
    return frozenset(have)


def surroundings(
    entries: list[Entry], stages: list[type[Stage] | None], start: frozenset[str] = FRESH
) -> list[Surroundings]:
    """For every entry, what stands before and after it and the traits of its incoming model."""
    names = [entry.uses or "" for entry in entries]
    found = []
    have = set(start)
    for place, stage in enumerate(stages):
        found.append(Surroundings(tuple(names[:place]), tuple(names[place + 1 :]), frozenset(have)))
        if stage is not None:
            have = (have - set(stage.traits.destroys)) | set(stage.traits.provides)
    return found


@dataclass
class _Model:
    """What is known of the model between two stages.

    ``opaque``: an unknown stage came by; nothing it may have done is held against a later one.
    """

    given: dict[str, Entry | None]
    taken: dict[str, Entry] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    opaque: bool = False


def check_order(
    entries: list[Entry], stages: list[type[Stage] | None], faults: Faults, start: frozenset[str] = FRESH
) -> None:
    """Record every stage that cannot work where it stands, naming the other stage too.

    Args:
        entries: the recipe's stages.
        stages: their classes; None where the stage is unknown.
        faults: receives what is wrong.
        start: traits of the model that the first stage gets.
    """
    model = _Model(dict.fromkeys(start))
    for entry, stage in zip(entries, stages, strict=True):
        if stage is None:
            model = _Model(given={}, opaque=True)
            continue
        _needs(entry, stage, model, faults)
        for trait in sorted(stage.traits.destroys):
            model.given.pop(trait, None)
            model.taken.setdefault(trait, entry)
        for trait in stage.traits.provides:
            model.given[trait] = entry
            model.taken.pop(trait, None)


def _needs(entry: Entry, stage: type[Stage], model: _Model, faults: Faults) -> None:
    """At most one diagnostic per stage: the first trait that does not fit."""
    for trait, by in model.taken.items():  # the earliest culprit: moving before it is enough
        if trait in stage.traits.requires:
            _taken(entry, trait, by, faults)
            return
    for trait in sorted(stage.traits.requires):
        if trait not in model.given and trait not in model.assumed and not model.opaque:
            model.assumed.add(trait)  # the next stage that needs it too has the same cause
            _never(entry, trait, faults)
            return
    for trait in sorted(stage.traits.conflicts):
        giver = model.given.get(trait)
        if giver is not None:
            _conflict(entry, trait, giver, faults)
            return
        if trait in model.given:
            like = _like(trait)
            faults.error(
                "MC113", f"`{entry.uses}` ({entry.place}) cannot take a model {like}, as the first one is", entry.mark
            )
            return


def _taken(entry: Entry, trait: str, by: Entry, faults: Faults) -> None:
    did = _WORDS[trait][1] if trait in _WORDS else f"takes `{trait}` away"
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) needs a model {_like(trait)}, but `{by.uses}` ({by.place}) {did}",
        entry.mark,
        hint=_move(entry, by),
    )


def _move(entry: Entry, by: Entry) -> str:
    same = entry.uses == by.uses
    return f"remove one of the two `{by.uses}`" if same else f"move `{entry.uses}` before `{by.uses}`"


def _conflict(entry: Entry, trait: str, by: Entry, faults: Faults) -> None:
    did = _WORDS[trait][2] if trait in _WORDS else f"provides `{trait}`"
    faults.error(
        "MC113",
        f"`{entry.uses}` ({entry.place}) cannot take a model {_like(trait)}, and `{by.uses}` ({by.place}) {did}",
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
