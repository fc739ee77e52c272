"""``--set path=value``: change one value of a recipe, before variables are filled in.

A path is names joined by dots: ``data.batch_size``, ``vars.ratio``, ``stages.prune.ratio`` (a stage by its id),
``stages[2].prune.ratio`` (by place, from 0); a name that holds a dot is written ``["features.0"]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import parse
from mcomp.recipe.stage_entries import KEYWORDS, outline
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, Source, is_null, walk
from mcomp.suggest import did_you_mean, listed

_STEP = re.compile(
    r"(?:^|\.)(?P<name>[^.\[\]=\"']+)|\[(?P<index>\d{1,6})\]|\[(?P<quote>[\"'])(?P<quoted>.*?)(?P=quote)\]"
)


@dataclass(frozen=True)
class Step:
    """One name or place of a path."""

    name: str
    mark: Mark


@dataclass(frozen=True)
class Assignment:
    """A parsed ``--set``."""

    steps: tuple[Step, ...]
    value: Node


def apply_sets(root: MapNode, texts: Sequence[str], faults: Faults) -> None:
    """Change ``root`` in place by every ``path=value``, in order."""
    for number, text in enumerate(texts, 1):
        source = Source(f"--set #{number}", text, "set")
        found = _parse(source, faults)
        if found is not None:
            _Application(root, found, faults).run()


def _parse(source: Source, faults: Faults) -> Assignment | None:
    text = source.text
    steps: list[Step] = []
    position = 0
    while found := _STEP.match(text, position):
        group = "name" if found["name"] is not None else "index" if found["index"] is not None else "quoted"
        mark = Mark(source, 1, found.start(group) + 1, len(found[group]) or 1)
        steps.append(Step(found[group], mark))
        position = found.end()
    if not steps or text[position : position + 1] != "=":
        faults.error(
            "MC110",
            f"`{shown(text)}` is not `path=value`",
            Mark(source, 1, position + 1),
            hint="e.g. `--set data.batch_size=32`, `--set stages.prune.ratio=0.5`",
        )
        return None
    value = parse(source, faults, first_column=position + 2)
    if value is None:
        if any(one.file == source.name for one in faults.errors):
            return None
        value = ScalarNode(None, Mark(source, 1, position + 1), "")
    if "\n" in text or (not isinstance(value, ScalarNode) and text[value.mark.column - 1] not in "[{"):
        faults.error(
            "MC110",
            "the value must be a single value, `[…]` or `{…}`",
            Mark(source, 1, position + 2),
            hint="quote text that holds `: `",
        )
        return None
    return Assignment(tuple(steps), value)


class _Application:
    """Walks one path down the tree, making mappings that are not there yet."""

    def __init__(self, root: MapNode, assignment: Assignment, faults: Faults) -> None:
        self._root = root
        self._steps = list(assignment.steps)
        self._value = assignment.value
        self._faults = faults

    def run(self) -> None:
        first = self._steps[0]
        if first.name == "stages" and len(self._steps) > 1:
            self._stage()
        elif first.name == "vars" and len(self._steps) > 1:
            self._variable()
        else:
            self._descend(self._root, self._steps, "the recipe")

    def _variable(self) -> None:
        section, step = self._root.get("vars"), self._steps[1]
        known = section.entries if isinstance(section, MapNode) else {}
        if step.name not in known:
            self._refuse(f"the recipe has no variable `{shown(step.name)}`", step, known)
            return
        self._descend(self._root, self._steps, "the recipe")

    def _stage(self) -> None:
        stages, step, rest = self._root.get("stages"), self._steps[1], self._steps[2:]
        if not isinstance(stages, ListNode):
            self._refuse("the recipe has no list of stages", step, ())
            return
        entries = outline(stages)
        index = next((place for place, one in enumerate(entries) if one.id == step.name), None)
        if index is None and step.name.isdecimal():
            index = int(step.name)
            if index >= len(entries):
                self._refuse(f"there is no stage {index}; the last of {len(entries)} is {len(entries) - 1}", step, ())
                return
        if index is None:
            self._refuse(f"no stage has the id `{shown(step.name)}`", step, [one.id for one in entries if one.id])
            return
        if not rest:
            stages.items[index] = self._value
            return
        uses = entries[index].uses
        if uses is None:
            self._faults.error("MC110", f"entry {index} of `stages` names no stage", step.mark)
            return
        entry = stages.items[index]
        if isinstance(entry, ScalarNode):  # a bare string: no options yet
            entry = MapNode(entry.mark, {uses: MapEntry(entry.mark, ScalarNode(None, entry.mark, ""))})
            stages.items[index] = entry
        if rest[0].name not in KEYWORDS and rest[0].name != uses:
            rest = [Step(uses, step.mark), *rest]
        self._descend(entry, rest, f"stage `{step.name}`")

    def _descend(self, node: Node, steps: Sequence[Step], what: str) -> None:
        step, rest = steps[0], steps[1:]
        if isinstance(node, ListNode):
            index = int(step.name) if step.name.isdecimal() else -1
            if not 0 <= index < len(node.items):
                self._refuse(f"`{shown(step.name)}` is no place in {what}, which has {len(node.items)} items", step, ())
            elif rest:
                self._descend(node.items[index], rest, f"item {index} of {what}")
            else:
                node.items[index] = self._value
            return
        if not isinstance(node, MapNode):
            self._refuse(f"{what} is a single value; it holds no `{shown(step.name)}`", step, ())
            return
        entry = node.entries.get(step.name)
        if entry is None or (rest and is_null(entry.value)):
            key = step.mark if entry is None else entry.key
            entry = node.entries[step.name] = MapEntry(key, MapNode(step.mark))
        if rest:
            self._descend(entry.value, rest, f"`{shown(step.name)}`")
        else:
            entry.value = self._value

    def _refuse(self, message: str, step: Step, known: Sequence[str] | dict[str, MapEntry] | tuple[()]) -> None:
        label = did_you_mean(step.name, known)
        hint = f"known: {listed(known)}" if known and not label else ""
        self._faults.error("MC110", message, step.mark, label=label, hint=hint)


def from_set(node: Node) -> bool:
    """True where any part of a value was given on the command line."""
    return any(one.mark.source.kind == "set" for one in walk(node))
