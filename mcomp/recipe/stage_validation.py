"""Every stage's options, keywords, gates and place in the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.gates import Gate
from mcomp.recipe.paths import anchor_sets, path_options
from mcomp.recipe.schema import StageKeywords
from mcomp.recipe.sections import validate
from mcomp.recipe.stage_entries import Entry, is_stage, take_apart
from mcomp.recipe.traits import FRESH, check_order, surroundings
from mcomp.recipe.translate import Section, got
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, is_null, is_poisoned
from mcomp.stages.base import COMMON_METRICS, Finding, Stage, Surroundings
from mcomp.suggest import did_you_mean, listed


@dataclass
class Checked:
    """One stage after validation; ``options`` is None where they are wrong."""

    entry: Entry
    cls: type[Stage] | None
    options: Any | None = None
    gates: list[Gate] = field(default_factory=list)
    seed: int | None = None
    cache: bool = True
    around: Surroundings = field(default_factory=Surroundings)


def check_stages(
    stages: ListNode, here: Path, faults: Faults, *, complete: bool, start: frozenset[str] = FRESH
) -> list[Checked]:
    """Validate the list of stages.

    Args:
        stages: the list.
        here: what paths given with ``--set`` are relative to.
        faults: receives what is wrong.
        complete: False when a plug-in was not loaded, so that an unknown stage may be its.
        start: traits of the model that the first stage gets.
    """
    entries = take_apart(stages, faults)
    found = [Checked(entry, _find(entry, faults, complete=complete)) for entry in entries]
    classes = [one.cls for one in found]
    for one, around in zip(found, surroundings(entries, classes, start), strict=True):
        one.around = around
        if one.cls is not None:
            one.options = _options(one.entry, one.cls, here, faults)
        _keywords(one, faults)
    for place, one in enumerate(found):
        _gates(one, found[:place], found[place:], faults)
    check_order(entries, classes, faults, start)
    if None not in classes:
        for one in found:
            _own_check(one, faults)
    return found


def _find(entry: Entry, faults: Faults, *, complete: bool) -> type[Stage] | None:
    from mcomp.stages import registry

    if entry.uses is None:
        return None
    if is_stage(entry.uses):
        return registry.get(entry.uses)
    if complete:
        label = did_you_mean(entry.uses, registry.names())
        faults.error(
            "MC106", f"unknown stage `{shown(entry.uses)}`", entry.mark, label=label, hint="`mcomp stages` lists them"
        )
    return None


def _options(entry: Entry, cls: type[Stage], here: Path, faults: Faults) -> Any | None:
    node = entry.options
    if node is not None and node.poisoned:
        return None
    if not (node is None or is_null(node) or isinstance(node, MapNode)):
        faults.error(
            "MC104",
            f"the options of stage `{entry.uses}` must be a mapping, got {got(node)}",
            node.mark,
            hint=f"write `{entry.uses}: {{option: value}}`",
        )
        return None
    anchor_sets(node, path_options(cls.Options), here)
    section = Section(
        f"stage `{entry.uses}`",
        node if isinstance(node, MapNode) else None,
        entry.mark,
        cls.Options,
        f"`mcomp stages {entry.uses}` lists its options",
    )
    return validate(section, faults)


def _keywords(one: Checked, faults: Faults) -> None:
    """``seed`` and ``cache``; ``id`` and ``gates`` have readers of their own."""
    keywords = {name: entry for name, entry in one.entry.keywords.items() if name in ("seed", "cache")}
    if not keywords:
        return
    node = MapNode(one.entry.mark, keywords)
    section = Section(f"stage `{one.entry.uses}`", node, one.entry.mark, StageKeywords, noun="keyword")
    found = validate(section, faults)
    if found is not None:
        one.seed, one.cache = found.seed, found.cache


def _gates(one: Checked, earlier: Sequence[Checked], later: Sequence[Checked], faults: Faults) -> None:
    keyword = one.entry.keywords.get("gates")
    if keyword is None or is_null(keyword.value) or keyword.value.poisoned:
        return
    node = keyword.value
    if not isinstance(node, ListNode):
        faults.error(
            "MC104",
            f"`gates` must be a list, got {got(node)}",
            node.mark,
            hint="e.g. `gates: [{metric: top1, min: 97}]`",
        )
        return
    for item in node.items:
        gate = _gate(item, one, faults)
        if gate is not None:
            one.gates.append(gate)
        if isinstance(item, MapNode):
            _gate_metric(item, one, earlier, faults)
            _gate_vs(item, one, earlier, later, faults)


def _gate(item: Node, one: Checked, faults: Faults) -> Gate | None:
    if not isinstance(item, MapNode):
        if not item.poisoned:
            faults.error(
                "MC104", f"a gate must be a mapping, got {got(item)}", item.mark, hint="e.g. `{metric: top1, min: 97}`"
            )
        return None
    section = Section(f"a gate of stage `{one.entry.uses}`", item, item.mark, Gate, "", "key")
    found = validate(section, faults)
    return found if isinstance(found, Gate) else None


def _text(entry: MapEntry | None) -> tuple[str, Mark] | None:
    node = None if entry is None else entry.value
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and not node.poisoned:
        return node.value, node.mark
    return None


def _gate_metric(item: MapNode, one: Checked, earlier: Sequence[Checked], faults: Faults) -> None:
    metric = _text(item.entries.get("metric"))
    if metric is None or one.cls is None:
        return
    name, mark = metric
    known = _metrics(one.cls)
    if name not in known:
        label = did_you_mean(name, known)
        faults.error(
            "MC112",
            f"stage `{one.entry.uses}` reports no metric `{shown(name)}`",
            mark,
            label=label,
            hint=f"it reports {listed(known, 20)}",
        )
        return
    vs = _text(item.entries.get("vs"))
    other = None if vs is None else next((stage for stage in earlier if stage.entry.id == vs[0]), None)
    if vs is not None and other is not None and other.cls is not None and name not in _metrics(other.cls):
        faults.error(
            "MC112",
            f"stage `{vs[0]}` reports no metric `{name}` to compare with",
            vs[1],
            hint=f"it reports {listed(_metrics(other.cls), 20)}",
        )


def _gate_vs(item: MapNode, one: Checked, earlier: Sequence[Checked], later: Sequence[Checked], faults: Faults) -> None:
    vs = _text(item.entries.get("vs"))
    if vs is None or any(stage.cls is None for stage in earlier):
        return  # an unknown stage may be the one that is meant
    name, mark = vs
    ids = [stage.entry.id for stage in earlier]
    if name in ids:
        return
    if name in [stage.entry.id for stage in later]:
        which = "this very stage" if name == one.entry.id else "a later stage"
        faults.error("MC112", f"`vs: {name}` is {which}; a gate compares with an earlier one", mark)
        return
    hint = f"earlier stages: {listed(ids)}" if ids else "the first stage has none to compare with"
    faults.error(
        "MC112", f"no earlier stage has the id `{shown(name)}`", mark, label=did_you_mean(name, ids), hint=hint
    )


def _metrics(cls: type[Stage]) -> list[str]:
    return sorted(cls.traits.metrics | COMMON_METRICS)


def _own_check(one: Checked, faults: Faults) -> None:
    """The stage's own static findings, then its ``auto`` values filled in."""
    if one.cls is None or one.options is None or (one.entry.options is not None and is_poisoned(one.entry.options)):
        return
    for finding in one.cls.check(one.options, one.around):
        mark = _mark_of(finding, one.entry)
        record = faults.warning if finding.severity == "warning" else faults.error
        record(finding.code, finding.message, mark, hint=finding.hint)
    one.options = one.cls.resolve(one.options, one.around)


def _mark_of(finding: Finding, entry: Entry) -> Mark:
    """The option a finding points at; the stage where that is not written out."""
    mark, node = entry.mark, entry.options
    for step in finding.option:
        if isinstance(node, MapNode) and isinstance(step, str) and step in node.entries:
            node = node.entries[step].value
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return mark
        mark = node.mark
    return mark
