"""``when`` and ``otherwise`` beside a stage: their form, and whether what they ask about is known by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mcomp.recipe.conditions import DROPS, When
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.figures import check_comparable, check_reported, runners, warn_of_drop
from mcomp.recipe.references import Duty, earlier_stage, text_of
from mcomp.recipe.schema import OUTCOMES
from mcomp.recipe.sections import validate
from mcomp.recipe.stage_entries import Entry, is_stage, take_apart_one
from mcomp.recipe.translate import LIKE_YES, Section, got
from mcomp.recipe.tree import ListNode, MapNode, Node, ScalarNode, is_null
from mcomp.suggest import did_you_mean

if TYPE_CHECKING:
    from mcomp.recipe.branches import Branches
    from mcomp.recipe.stage_validation import Checked

_CODE = "MC132"
_STAGE = Duty("stage", _CODE, "a condition asks about an earlier one")
_VS = Duty("vs", _CODE, "a condition compares with an earlier one")


def read_when(entry: Entry, faults: Faults) -> When | bool | None:
    """What decides whether the stage runs; True where nothing is written, None where nothing usable is."""
    keyword = entry.keywords.get("when")
    if keyword is None or is_null(keyword.value):
        return True
    node = keyword.value
    if node.poisoned:
        return None
    if isinstance(node, MapNode):
        section = Section(f"the condition of stage `{entry.uses}`", node, keyword.key, When, "", "key")
        found = validate(section, faults)
        return found if isinstance(found, When) else None
    if isinstance(node, ScalarNode) and isinstance(node.value, bool):
        return node.value
    hint = "e.g. `when: {backend: tensorrt}`, `when: {stage: prune, metric: top1, max: 97}`"
    if isinstance(node, ScalarNode) and node.text in ("true", "false"):
        hint = "remove the quotes"
    elif isinstance(node, ScalarNode) and LIKE_YES.fullmatch(node.text):
        hint = "YAML 1.2 knows only `true` and `false`"
    faults.error("MC104", f"`when` must be true, false or a condition, got {got(node)}", node.mark, hint=hint)
    return None


def read_otherwise(entry: Entry, faults: Faults, *, complete: bool) -> Literal["skip", "stop", "fail"] | Entry | None:
    """What happens where the condition does not hold, or the stage that runs then; None where nothing usable is."""
    keyword = entry.keywords.get("otherwise")
    if keyword is None or is_null(keyword.value):
        return "skip"
    if keyword.value.poisoned:
        return None
    if "when" not in entry.keywords or is_null(entry.keywords["when"].value):
        message = f"`otherwise` of stage `{entry.uses}` has no `when` that could fail to hold"
        faults.error("MC133", message, keyword.key, hint="add `when:`, or leave `otherwise` out")
        return None
    node = keyword.value
    if isinstance(node, ScalarNode):
        for outcome in OUTCOMES:
            if node.value == outcome:
                return outcome
    if not _may_be_stage(node, faults, complete=complete):
        return None
    return _instead(entry, node, faults)


def _may_be_stage(node: Node, faults: Faults, *, complete: bool) -> bool:
    from mcomp.stages import registry

    text = node.value if isinstance(node, ScalarNode) else None
    if isinstance(node, MapNode) or (isinstance(text, str) and (not complete or is_stage(text))):
        return True
    label = did_you_mean(text, [*OUTCOMES, *registry.names()]) if isinstance(text, str) else ""
    hint = "e.g. `otherwise: stop`, `otherwise: {finetune: {epochs: 2}}`"
    if isinstance(node, ListNode):
        hint = "it is one stage; write what follows as entries of their own"
    faults.error(
        "MC133",
        f"`otherwise` must be `skip`, `stop`, `fail` or a stage, got {got(node)}",
        node.mark,
        label=label,
        hint=hint,
    )
    return False


def _instead(entry: Entry, node: Node, faults: Faults) -> Entry:
    """The entry under ``otherwise``: it goes by the id of the one that it stands in for."""
    instead = take_apart_one(node, faults)
    for name in ("id", "from", "when", "otherwise"):
        if name in instead.keywords:
            faults.error(
                "MC133",
                f"`{name}` cannot stand in `otherwise`: the stage there takes the place of `{shown(entry.id)}`",
                instead.keywords[name].key,
                hint="only `gates`, `seed` and `cache` may stand beside it",
            )
    instead.id = entry.id
    return instead


def check_condition(place: int, found: Sequence[Checked], branches: Branches, faults: Faults) -> None:
    """Record where the condition of the stage at ``place`` asks about a stage or metric that is not known by then.

    Such a stage is ``undecided``: whether it would be skipped is nothing to hold against the stages behind it.
    """
    own = Faults(faults.files)
    _check_condition(place, found, branches, own)
    found[place].undecided |= bool(own.errors)
    for one in (*own.errors, *own.warnings):
        faults.take(one)


def _check_condition(place: int, found: Sequence[Checked], branches: Branches, faults: Faults) -> None:
    keyword = found[place].entry.keywords.get("when")
    node = None if keyword is None else keyword.value
    if not isinstance(node, MapNode) or node.poisoned:
        return
    warn_of_drop(node, DROPS, faults)
    ids = [one.entry.id for one in found]
    certain = all(one.cls is not None for one in found[:place])
    stage, metric, vs = (text_of(node.entries.get(key)) for key in ("stage", "metric", "vs"))
    gone = branches.gone
    asked = None if stage is None else earlier_stage(stage, place, ids, certain, _STAGE, faults, gone)
    other = None if vs is None else earlier_stage(vs, place, ids, certain, _VS, faults, gone)
    if metric is None or asked is None or stage is None:
        return
    if not check_reported(metric, runners(found[asked]), _CODE, faults):
        return
    check_comparable(metric[0], stage, asked, found, branches, _CODE, faults, compared=False)
    if other is not None and vs is not None:
        check_comparable(metric[0], vs, other, found, branches, _CODE, faults)
