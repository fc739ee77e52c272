"""Ids of other stages, wherever a stage names one: it has to stand earlier in the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.tree import MapEntry, Mark, ScalarNode
from mcomp.suggest import did_you_mean, listed


@dataclass(frozen=True)
class Duty:
    """What a reference is for, in the words of its messages.

    Attributes:
        key: that holds the id, e.g. ``vs``.
        code: of its faults.
        wants: what the sentence ends with, e.g. ``a gate compares with an earlier one``.
    """

    key: str
    code: str
    wants: str


def text_of(entry: MapEntry | None) -> tuple[str, Mark] | None:
    """The text under a key and where it stands; None for anything else, which its model refuses."""
    node = None if entry is None else entry.value
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and not node.poisoned:
        return node.value, node.mark
    return None


def earlier_stage(
    reference: tuple[str, Mark],
    here: int,
    ids: Sequence[str],
    certain: bool,
    duty: Duty,
    faults: Faults,
    gone: Mapping[str, str],
) -> int | None:
    """The place of the stage that is meant; None, with the reason recorded, where there is none.

    Args:
        reference: an id and where it is written.
        here: place of the stage that names it.
        ids: of every stage of the list, empty where there is none.
        certain: False when a stage before this one is unknown, so that it may be the one that is meant.
        duty: for messages.
        faults: receives what is wrong.
        gone: ids that edits of the list took away, each with what became of it.
    """
    name, mark = reference
    before = list(ids[:here])
    if name in before:
        return before.index(name)
    if not certain:
        return None
    if name in ids[here:]:
        which = "this very stage" if name == ids[here] else "a later stage"
        faults.error(duty.code, f"`{duty.key}: {name}` is {which}; {duty.wants}", mark)
        return None
    hint = f"earlier stages: {listed(before)}" if before else "the first stage has none before it"
    label = "" if name in gone else did_you_mean(name, before)
    hint = f"{gone[name]}; {hint}" if name in gone else hint
    faults.error(duty.code, f"no earlier stage has the id `{shown(name)}`", mark, label=label, hint=hint)
    return None
