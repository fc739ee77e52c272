"""``gates`` beside a stage: their form, and whether there is anything to hold against each limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.figures import check_comparable, check_reported, runners, warn_of_drop
from mcomp.recipe.gates import Gate
from mcomp.recipe.references import Duty, earlier_stage, text_of
from mcomp.recipe.sections import validate
from mcomp.recipe.translate import Section, got
from mcomp.recipe.tree import ListNode, MapNode, Node, is_null

if TYPE_CHECKING:
    from mcomp.recipe.branches import Branches
    from mcomp.recipe.stage_validation import Checked

_CODE = "MC112"
_VS = Duty("vs", _CODE, "a gate compares with an earlier one")


def read_gates(place: int, found: Sequence[Checked], branches: Branches, faults: Faults) -> None:
    """Validate the gates of the stage at ``place`` and put them on it.

    They hold for a stage that runs in its place too, beside gates that may be written there.
    """
    both = runners(found[place])
    _read(both, place, found, branches, faults)
    for instead in both[1:]:
        _read([instead], place, found, branches, faults)


def _read(among: Sequence[Checked], place: int, found: Sequence[Checked], branches: Branches, faults: Faults) -> None:
    """Read the gates beside the first of ``among``, which have to suit the others too."""
    for item in _items(among[0], faults):
        gate = _gate(item, among[0], faults)
        if gate is not None:
            among[0].gates.append(gate)
        if not isinstance(item, MapNode):
            continue
        warn_of_drop(item, ("max_drop",), faults)
        metric, vs = text_of(item.entries.get("metric")), text_of(item.entries.get("vs"))
        known = metric is not None and check_reported(metric, among, _CODE, faults)
        if vs is None:
            continue
        certain = all(one.cls is not None for one in found[:place])
        other = earlier_stage(vs, place, [one.entry.id for one in found], certain, _VS, faults, branches.gone)
        if metric is not None and known and other is not None:
            check_comparable(metric[0], vs, other, found, branches, _CODE, faults)


def _items(one: Checked, faults: Faults) -> list[Node]:
    keyword = one.entry.keywords.get("gates")
    if keyword is None or is_null(keyword.value) or keyword.value.poisoned:
        return []
    node = keyword.value
    if isinstance(node, ListNode):
        return node.items
    hint = "e.g. `gates: [{metric: top1, min: 97}]`"
    faults.error("MC104", f"`gates` must be a list, got {got(node)}", node.mark, hint=hint)
    return []


def _gate(item: Node, one: Checked, faults: Faults) -> Gate | None:
    if not isinstance(item, MapNode):
        if not item.poisoned:
            hint = "e.g. `{metric: top1, min: 97}`"
            faults.error("MC104", f"a gate must be a mapping, got {got(item)}", item.mark, hint=hint)
        return None
    section = Section(f"a gate of stage `{one.entry.uses}`", item, item.mark, Gate, "", "key")
    found = validate(section, faults)
    return found if isinstance(found, Gate) else None
