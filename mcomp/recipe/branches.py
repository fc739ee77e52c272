"""``from``: whose model each stage gets, so that one recipe may have several tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.references import Duty, earlier_stage, text_of
from mcomp.recipe.stage_entries import Entry, is_stage
from mcomp.recipe.translate import got
from mcomp.recipe.tree import ScalarNode, is_null

_FROM = Duty("from", "MC130", "a branch starts from an earlier one")


@dataclass(frozen=True)
class Branches:
    """The tree that the list of stages is.

    Attributes:
        sources: for each stage, the place of the one whose model it gets; None for the recipe's own model.
        lost: places whose ``from`` names no stage, so that nothing is known of their model.
        gone: ids that edits of the list took away, each with what became of it.
    """

    sources: tuple[int | None, ...]
    lost: frozenset[int]
    gone: Mapping[str, str] = field(default_factory=dict)

    def before(self, place: int) -> list[int]:
        """The stages that a model has gone through when it gets here, first to last."""
        found = []
        source = self.sources[place]
        while source is not None:
            found.append(source)
            source = self.sources[source]
        return found[::-1]

    def after(self, place: int) -> list[int]:
        """Every stage that gets what this one made of the model, in the order of the list."""
        found = {place}
        for later in range(place + 1, len(self.sources)):
            if self.sources[later] in found:
                found.add(later)
        return sorted(found - {place})


def read_branches(entries: Sequence[Entry], faults: Faults, gone: Mapping[str, str]) -> Branches:
    """Follow every ``from``; a stage without one goes on from the entry before it."""
    ids = [entry.id for entry in entries]
    sources: list[int | None] = []
    lost = set()
    for place, entry in enumerate(entries):
        previous = place - 1 if place else None
        keyword = entry.keywords.get("from")
        if keyword is None or is_null(keyword.value):
            sources.append(previous)
            continue
        found = None
        named = text_of(keyword)
        if named is not None:
            certain = all(one.uses is not None and is_stage(one.uses) for one in entries[:place])
            found = earlier_stage(named, place, ids, certain, _FROM, faults, gone)
        elif not keyword.value.poisoned:
            node = keyword.value
            quotes = isinstance(node, ScalarNode) and node.text in ids[:place]
            hint = "put it in quotes" if quotes else "e.g. `from: finetune`"
            faults.error("MC104", f"`from` must be the id of a stage, got {got(node)}", node.mark, hint=hint)
        if found is None:
            lost.add(place)
        sources.append(previous if found is None else found)
    return Branches(tuple(sources), frozenset(lost), gone)
