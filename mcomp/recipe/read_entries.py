"""Ids of earlier stages among a stage's options: each has to be one that the stage's model came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.figures import runners
from mcomp.recipe.references import Duty, earlier_stage
from mcomp.recipe.tree import ListNode, MapNode, Mark, Node, ScalarNode
from mcomp.suggest import listed

if TYPE_CHECKING:
    from mcomp.recipe.branches import Branches
    from mcomp.recipe.stage_validation import Checked

_CODE = "MC135"


def check_reads(place: int, found: Sequence[Checked], branches: Branches, faults: Faults) -> None:
    """Refuse a stage that reads the model of one that is not on its path."""
    for one in runners(found[place]):
        if one.cls is None or one.options is None:
            continue
        for name in one.cls.reads(one.options):
            key, mark = _written(name, one.entry.options) or ("", one.entry.mark)
            _check(name, key, mark, place, found, branches, faults)


def _check(
    name: str, key: str, mark: Mark, place: int, found: Sequence[Checked], branches: Branches, faults: Faults
) -> None:
    ids = [one.entry.id for one in found]
    duty = Duty(key, _CODE, "a stage reads models of stages before it")
    certain = all(one.cls is not None for one in found[:place])
    other = earlier_stage((name, mark), place, ids, certain, duty, faults, branches.gone)
    if other is None or branches.lost:
        return
    path = branches.before(place)
    if other not in path:
        faults.error(
            _CODE,
            f"`{key}: {name}` is on another branch",
            mark,
            hint=f"stages on the way here: {listed([ids[each] for each in path])}" if path else "there is none before",
        )


def _written(text: str, node: Node | None, key: str = "") -> tuple[str, Mark] | None:
    """The key that holds the text, and where the text stands."""
    if isinstance(node, ScalarNode):
        return (key, node.mark) if node.value == text else None
    below: list[tuple[str, Node]] = []
    if isinstance(node, MapNode):
        below = [(name, entry.value) for name, entry in node.entries.items()]
        below.sort(key=lambda item: item[0] not in ("teacher", "stage"))  # another option may hold the same text
    elif isinstance(node, ListNode):
        below = [(key, item) for item in node.items]
    for name, item in below:
        found = _written(text, item, name)
        if found is not None:
            return found
    return None
