"""Every stage's options, keywords, gates and place in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mcomp.recipe.branches import Branches, read_branches
from mcomp.recipe.condition_entries import check_condition, read_otherwise, read_when
from mcomp.recipe.conditions import When
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.figures import runners
from mcomp.recipe.gate_entries import read_gates
from mcomp.recipe.gates import Gate
from mcomp.recipe.order import check_order
from mcomp.recipe.paths import anchor_sets, anchored_options, path_options
from mcomp.recipe.read_entries import check_reads
from mcomp.recipe.schema import StageKeywords
from mcomp.recipe.sections import validate
from mcomp.recipe.stage_entries import KEYWORDS, Entry, is_stage, take_apart
from mcomp.recipe.traits import FRESH, Model, Position, flow, surroundings
from mcomp.recipe.translate import Section, got
from mcomp.recipe.tree import ListNode, MapNode, Mark, is_null, is_poisoned
from mcomp.stages.base import Finding, Stage, Surroundings
from mcomp.suggest import did_you_mean


@dataclass
class Checked:
    """One stage after validation; ``options`` is None where they are wrong.

    Attributes:
        entry: the stage as written; its ``id`` is the recipe's name for it.
        source: id of the stage whose model it gets; None for the recipe's own model.
        when: what decides whether it runs.
        otherwise: what happens where it does not; a stage that runs in its place has the same id and source.
        undecided: ``when`` or ``otherwise`` is wrong; what would be if the stage did not run is held against nobody.
    """

    entry: Entry
    cls: type[Stage] | None
    options: Any | None = None
    gates: list[Gate] = field(default_factory=list)
    seed: int | None = None
    cache: bool = True
    around: Surroundings = field(default_factory=Surroundings)
    source: str | None = None
    when: When | bool = True
    otherwise: Literal["skip", "stop", "fail"] | Checked = "skip"
    undecided: bool = False


def check_stages(
    stages: ListNode,
    here: Path,
    base: Path,
    faults: Faults,
    *,
    complete: bool,
    start: frozenset[str] = FRESH,
    gone: Mapping[str, str] | None = None,
) -> list[Checked]:
    """Validate the list of stages.

    Args:
        stages: the list.
        here: what paths given with ``--set`` are relative to.
        base: what all others are relative to: the recipe's folder.
        faults: receives what is wrong.
        complete: False when a plug-in was not loaded, so that an unknown stage may be its.
        start: traits of the model that the first stage gets.
        gone: ids that edits of the list took away, each with what became of it.
    """
    entries = take_apart(stages, faults)
    branches = read_branches(entries, faults, gone or {})
    found = [_outline(entry, faults, complete=complete) for entry in entries]
    for place in range(len(found)):
        check_condition(place, found, branches, faults)
    positions = [_position(one, place, branches) for place, one in enumerate(found)]
    models = flow(positions, start)
    for place, around in enumerate(surroundings(positions, branches, models)):
        source = branches.sources[place]
        for one in runners(found[place]):
            one.around = around
            one.source = None if source is None else entries[source].id
            if one.cls is not None:
                one.options = _options(one.entry, one.cls, (here, base), faults)
        _keywords(found[place], faults)
        read_gates(place, found, branches, faults)
        check_reads(place, found, branches, faults)
    moved = check_order(positions, models, faults)
    everything = [(one, place) for place, first in enumerate(found) for one in runners(first)]
    if not branches.lost and all(one.cls is not None for one, _ in everything):
        live = [id(entry) for position in positions for entry, _ in position.runs]
        for one, place in everything:
            _own_check(one, models[place], moved.get(place), faults if id(one.entry) in live else Faults())
    for one in found:
        if one.when is True:  # checked, and of no further use
            one.otherwise = "skip"
    return found


def _outline(entry: Entry, faults: Faults, *, complete: bool) -> Checked:
    """The stage's class, and what may happen in its place."""
    one = Checked(entry, _find(entry, faults, complete=complete))
    when = read_when(entry, faults)
    otherwise = read_otherwise(entry, faults, complete=complete)
    one.undecided = when is None or otherwise is None
    one.when = True if when is None else when
    if isinstance(otherwise, Entry):
        one.otherwise = Checked(otherwise, _find(otherwise, faults, complete=complete))
    elif otherwise is not None:
        one.otherwise = otherwise
    return one


def _position(one: Checked, place: int, branches: Branches) -> Position:
    """What the order of stages depends on; a stage with ``when: false`` is as good as not there."""
    own = (one.entry, one.cls)
    runs = [own] if one.when is not False else []
    if isinstance(one.otherwise, Checked) and one.when is not True:
        runs.append((one.otherwise.entry, one.otherwise.cls))
    return Position(
        source=branches.sources[place],
        runs=tuple(runs),
        skips=one.when is not True and one.otherwise == "skip" and not one.undecided,
        off=own if one.when is False else None,
        lost=place in branches.lost,
    )


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


def _options(entry: Entry, cls: type[Stage], folders: tuple[Path, Path], faults: Faults) -> Any | None:
    here, base = folders
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
    if isinstance(node, MapNode):
        node = _without_keywords(node, str(entry.uses), cls, faults)
    anchor_sets(node, path_options(cls.Options), here)
    section = Section(
        f"stage `{entry.uses}`",
        node if isinstance(node, MapNode) else None,
        entry.mark,
        cls.Options,
        f"`mcomp stages {entry.uses}` lists its options",
    )
    options = validate(section, faults)
    return None if options is None else anchored_options(options, base)


def _without_keywords(node: MapNode, uses: str, cls: type[Stage], faults: Faults) -> MapNode:
    """The options less the keywords that were written among them, each of which is a fault with its place."""
    strayed = [key for key in node.entries if key in KEYWORDS and key not in cls.Options.model_fields]
    for key in strayed:
        faults.error(
            "MC103",
            f"`{key}` is no option of stage `{uses}` but a keyword, which stands beside it",
            node.entries[key].key,
            hint=f"write `- {uses}: {{…}}` and, in a line of its own below the stage's name, `{key}: …`",
        )
    kept = {key: entry for key, entry in node.entries.items() if key not in strayed}
    return MapNode(node.mark, kept, node.poisoned)


def _keywords(one: Checked, faults: Faults) -> None:
    """``seed`` and ``cache``, which hold for a stage in its place too; the other keywords have readers of their own."""
    for runner in runners(one):
        keywords = {name: entry for name, entry in runner.entry.keywords.items() if name in ("seed", "cache")}
        runner.seed, runner.cache = one.seed, one.cache
        if not keywords:
            continue
        node = MapNode(runner.entry.mark, keywords)
        section = Section(f"stage `{runner.entry.uses}`", node, runner.entry.mark, StageKeywords, noun="keyword")
        found = validate(section, faults)
        if found is not None:
            runner.seed = found.seed if "seed" in keywords else runner.seed
            runner.cache = found.cache if "cache" in keywords else runner.cache


def _own_check(one: Checked, model: Model, moved: frozenset[str] | None, faults: Faults) -> None:
    """The stage's own static findings, then its ``auto`` values filled in.

    Where a stage behind it has to be moved before it, only what holds with the traits ``moved`` there too is a fault.
    """
    if one.cls is None or one.options is None or (one.entry.options is not None and is_poisoned(one.entry.options)):
        return
    findings = one.cls.check(one.options, one.around)
    perhaps = replace(one.around, have=model.possible)
    others = findings if perhaps == one.around else one.cls.check(one.options, perhaps)
    found = [*findings, *(other for other in others if other not in findings)]
    if moved:
        there = one.cls.check(one.options, replace(one.around, have=one.around.have | moved))
        found = [finding for finding in found if finding in there]
    for finding in found:
        record = faults.warning if finding.severity == "warning" else faults.error
        hint = finding.hint
        if finding not in others:  # it holds only where an earlier stage did not do its part
            hint = "; ".join(part for part in (f"it is so {model.when()}", hint) if part)
        record(finding.code, finding.message, _mark_of(finding, one.entry), hint=hint)
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
