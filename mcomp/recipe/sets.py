"""``--set path=value``: change one value of a recipe, before variables are filled in.

A path is names joined by dots: ``data.batch_size``, ``vars.ratio``, ``stages.prune.ratio`` (a stage by its id),
``stages[2].prune.ratio`` (by place, from 0); a name that holds a dot is written ``["features.0"]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import MAX_DEPTH, parse
from mcomp.recipe.overlay import DEEP
from mcomp.recipe.schema import COMPOSING
from mcomp.recipe.stage_entries import KEYWORDS, Entry, outline
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, Source, is_null
from mcomp.suggest import did_you_mean, listed

_STEP = re.compile(
    r"(?:^|\.)(?P<name>[^.\[\]=\"']+)|\[(?P<index>\d{1,6})\]|\[(?P<quote>[\"'])(?P<quoted>.*?)(?P=quote)\]"
)
#: Keys of the top level that put files together; they are gone before `--set` is applied.
COMPOSITION = tuple(key for key in COMPOSING if key != "sweep")
_DIGITS = 6  # of a place in a list; keeps int() off whole pages of them

#: The names down to a value, a stage by its place.
Target = tuple[str, ...]


@dataclass(frozen=True)
class GivenSet:
    """One ``path=value``, and the folder that paths in it are relative to: the current one when it was given."""

    text: str
    folder: Path


@dataclass(frozen=True)
class Step:
    """One name of a path, or a place in a list."""

    name: str
    mark: Mark
    is_place: bool = False


@dataclass(frozen=True)
class Assignment:
    """One value and where it goes.

    Attributes:
        steps: the path.
        value: what is put there.
        code: of a path that leads nowhere.
    """

    steps: tuple[Step, ...]
    value: Node
    code: str = "MC110"


@dataclass(frozen=True)
class Applied:
    """A ``--set`` that was carried out: where it is written, and the place it changed."""

    mark: Mark
    target: Target


def apply_sets(root: MapNode, given: Sequence[GivenSet], faults: Faults) -> list[Applied]:
    """Change ``root`` in place by every ``path=value``, in order."""
    applied = []
    for number, one in enumerate(given, 1):
        source = Source(f"--set #{number}", one.text, "set", one.folder)
        found = _parse(source, faults)
        if found is not None and assign(root, found, faults):
            first, last = found.steps[0].mark, found.steps[-1].mark
            length = last.column + last.length - first.column
            applied.append(Applied(Mark(source, 1, first.column, length), target_of(root, found.steps)))
    return applied


def assign(root: MapNode, assignment: Assignment, faults: Faults) -> bool:
    """Change ``root`` in place by one assignment; False, with the reason recorded, where its path leads nowhere."""
    return _Application(root, assignment, faults).run()


def read_path(text: str, mark_at: Callable[[int, int], Mark]) -> tuple[tuple[Step, ...], int]:
    """The steps at the start of a text, and where they end; reading stops after one more than ``MAX_DEPTH``.

    Args:
        text: a path, perhaps with ``=value`` behind it.
        mark_at: the mark of so many characters from an offset on.
    """
    steps: list[Step] = []
    position = 0
    while len(steps) <= MAX_DEPTH and (found := _STEP.match(text, position)):
        group = "name" if found["name"] is not None else "index" if found["index"] is not None else "quoted"
        steps.append(Step(found[group], mark_at(found.start(group), len(found[group]) or 1), group == "index"))
        position = found.end()
    return tuple(steps), position


def too_deep(path: str) -> str:
    """What is wrong with a path of more steps than a recipe has levels."""
    return f"`{shown(path)}` leads too deep: a path has at most {MAX_DEPTH} steps"


def target_of(root: MapNode, steps: Sequence[Step]) -> Target:
    """A path in the one spelling that two paths to the same value share."""
    stages = root.get("stages")
    if steps[0].name != "stages" or len(steps) == 1 or not isinstance(stages, ListNode):
        return tuple(step.name for step in steps)
    entries = outline(stages)
    index = _stage_index(entries, steps[1].name)
    if index is None or index >= len(entries):
        return tuple(step.name for step in steps)  # it leads nowhere, which is said where it is followed
    rest = _below_stage(entries[index], steps[1], steps[2:])
    return ("stages", str(index), *(step.name for step in rest))


def _stage_index(entries: Sequence[Entry], name: str) -> int | None:
    """The place of a stage by its id, else by its number, which may be past the end."""
    index = next((place for place, one in enumerate(entries) if one.id == name), None)
    return int(name) if index is None and name.isdecimal() and len(name) <= _DIGITS else index


def _below_stage(entry: Entry, stage: Step, rest: Sequence[Step]) -> Sequence[Step]:
    """The steps below an item of ``stages``: an option's name stands for ``<stage>.<option>``."""
    if not rest or entry.uses is None or rest[0].name in KEYWORDS or rest[0].name == entry.uses:
        return rest
    return [Step(entry.uses, stage.mark), *rest]


def _parse(source: Source, faults: Faults) -> Assignment | None:
    text = source.text
    if len(source.lines) > 1:
        faults.error(
            "MC110",
            "a `--set` is one line, and this one goes on behind a line break",
            Mark(source, 1, len(source.lines[0]) + 1),
            hint='a list or a mapping fits on one line: `[…]`, `{…}`; a line break in text is `\\n` inside of `"…"`',
        )
        return None
    steps, position = read_path(text, lambda start, length: Mark(source, 1, start + 1, length))
    if len(steps) > MAX_DEPTH:
        faults.error("MC110", too_deep(text), steps[-1].mark)
        return None
    if not steps or text[position : position + 1] != "=":
        faults.error(
            "MC110",
            f"`{shown(text)}` is not `path=value`",
            Mark(source, 1, position + 1),
            hint="e.g. `--set data.batch_size=32`, `--set stages.prune.ratio=0.5`",
        )
        return None
    if steps[0].name in COMPOSITION:
        faults.error(
            "MC110",
            f"`{steps[0].name}` cannot be set: files are put together before `--set` is applied",
            steps[0].mark,
            hint="set the value that it changes, e.g. `--set stages.prune.ratio=0.5`",
        )
        return None
    value = parse(source, faults, first_column=position + 2)
    if value is None:
        if any(one.file == source.name for one in faults.errors):
            return None
        value = ScalarNode(None, Mark(source, 1, position + 1), "")
    if not isinstance(value, ScalarNode) and text[value.mark.column - 1] not in "[{":
        faults.error(
            "MC110",
            "the value must be a single value, `[…]` or `{…}`",
            Mark(source, 1, position + 2),
            hint="quote text that holds `: `",
        )
        return None
    return Assignment(steps, value)


class _Application:
    """Walks one path down the tree, making mappings that are not there yet."""

    def __init__(self, root: MapNode, assignment: Assignment, faults: Faults) -> None:
        self._root = root
        self._steps = list(assignment.steps)
        self._value = assignment.value
        self._code = assignment.code
        self._faults = faults

    def run(self) -> bool:
        first = self._steps[0]
        if len(self._steps) > 1 and _has_wrong_form(first.name, self._root):
            return False  # said when the recipe is validated
        if first.name == "stages" and len(self._steps) > 1:
            return self._stage()
        if first.name == "vars" and len(self._steps) > 1:
            return self._variable()
        return self._descend(self._root, self._steps, "the recipe")

    def _variable(self) -> bool:
        section, step = self._root.get("vars"), self._steps[1]
        known = section.entries if isinstance(section, MapNode) else {}
        if step.name not in known:
            return self._refuse(f"the recipe has no variable `{shown(step.name)}`", step, known)
        return self._descend(self._root, self._steps, "the recipe")

    def _stage(self) -> bool:
        stages, step, rest = self._root.get("stages"), self._steps[1], self._steps[2:]
        if not isinstance(stages, ListNode):
            return self._refuse("the recipe has no stages", step)
        entries = outline(stages)
        index = _stage_index(entries, step.name)
        if index is None:
            known = [one.id for one in entries if one.id]
            return self._refuse(f"no stage has the id `{shown(step.name)}`", step, known)
        if index >= len(entries):
            last = f"there is no stage {index}; the last of {len(entries)} is {len(entries) - 1}"
            return self._refuse(last if entries else "the recipe has no stages", step)
        if not rest:
            stages.items[index] = self._value
            return True
        if entries[index].uses is None:
            return self._refuse(f"entry {index} of `stages` names no stage", step)
        entry = stages.items[index] = opened(stages.items[index])
        return self._descend(entry, _below_stage(entries[index], step, rest), f"stage `{step.name}`")

    def _descend(self, node: Node, steps: Sequence[Step], what: str) -> bool:
        step, rest = steps[0], steps[1:]
        if isinstance(node, ListNode):
            index = int(step.name) if step.name.isdecimal() and len(step.name) <= _DIGITS else -1
            if not 0 <= index < len(node.items):
                message = f"`{shown(step.name)}` is no place in {what}, which has {len(node.items)} items"
                return self._refuse(message, step)
            if rest:
                return self._descend(node.items[index], rest, f"item {index} of {what}")
            node.items[index] = self._value
            return True
        if not isinstance(node, MapNode):
            return self._refuse(f"{what} is a single value; it holds no `{shown(step.name)}`", step)
        entry = node.entries.get(step.name)
        if rest and rest[0].is_place and (entry is None or is_null(entry.value)):
            message = f"`{shown(step.name)}` is not given, so it has no item {rest[0].name}"
            return self._refuse(message, rest[0])
        if entry is None or (rest and is_null(entry.value)):
            key = step.mark if entry is None else entry.key
            entry = node.entries[step.name] = MapEntry(key, MapNode(step.mark))
        if rest:
            return self._descend(entry.value, rest, f"`{shown(step.name)}`")
        entry.value = self._value
        return True

    def _refuse(self, message: str, step: Step, known: Collection[str] = ()) -> bool:
        label = did_you_mean(step.name, known)
        hint = f"known: {listed(known)}" if known and not label else ""
        self._faults.error(self._code, message, step.mark, label=label, hint=hint)
        return False


def _has_wrong_form(section: str, root: MapNode) -> bool:
    """True for a section that can hold nothing, being neither a list nor a mapping where it has to be one."""
    node = root.get(section)
    wanted = ListNode if section == "stages" else MapNode
    return section in ("stages", *DEEP) and not is_null(node) and not isinstance(node, wanted)


def opened(item: Node) -> MapNode:
    """An item of ``stages`` as a mapping that options can be put into; of a bare string a new one."""
    if isinstance(item, ScalarNode):
        return MapNode(item.mark, {str(item.value): MapEntry(item.mark, ScalarNode(None, item.mark, ""))})
    assert isinstance(item, MapNode)
    return item
