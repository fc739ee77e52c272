"""A YAML 1.2 core loader that keeps positions and refuses what a recipe has no use for.

It builds our own value tree from PyYAML's parser events, so that no constructor, tag or resolver of
YAML 1.1 ever runs. PyYAML's Python scanner is used rather than libyaml's: its positions count
characters, and its messages say where a quoted scalar or a bracket was opened.
"""

from __future__ import annotations

from typing import Any, NoReturn

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.scalars import resolve
from mcomp.recipe.syntax import explain_reader, explain_syntax
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, Source, characters, clone, count

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 10_000


class _Events(Reader, Scanner, Parser):
    """Text to events; nothing of PyYAML beyond its grammar."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


class _Stop(Exception):
    """The text cannot be read any further; its fault is recorded."""


def parse(source: Source, faults: Faults, *, first_column: int = 1) -> Node | None:
    """The value tree of a text; None when it cannot be read to its end.

    Args:
        source: the text.
        faults: receives what is wrong with it. Duplicate keys, tags and merge keys leave a usable tree.
        first_column: where in a one-line source the value starts, for ``--set path=value``.
    """
    # blanks in place of the path keep every column right
    text = " " * (first_column - 1) + source.text[first_column - 1 :]
    try:
        return _Builder(source, text, faults).document()
    except _Stop:
        return None


class _Builder:
    """One pass over the events of one text."""

    def __init__(self, source: Source, text: str, faults: Faults) -> None:
        self._source = source
        self._faults = faults
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._repeated = 0
        try:
            self._events = _Events(text)
        except yaml.reader.ReaderError as error:
            self._fail(*explain_reader(error, source))

    def document(self) -> Node | None:
        """The only document's root."""
        self._next()  # stream start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        root = self._node(self._next(), 1)
        self._next()  # document end
        after = self._next()
        if isinstance(after, yaml.DocumentStartEvent):
            self._fail("a recipe is one document; a second one starts here", self._mark(after), "remove the `---`")
        return root

    def _fail(self, message: str, mark: Mark | None, hint: str = "") -> NoReturn:
        self._faults.error("MC102", message, mark, hint=hint)
        raise _Stop

    def _next(self) -> Any:
        try:
            return self._events.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            self._fail(*explain_syntax(error, self._source))
        except (ValueError, OverflowError):  # PyYAML on `"\U00110000"` and on `%YAML` with thousands of digits
            mark = self._events.get_mark()
            self._fail("an escape or directive holds an impossible number", _point(self._source, mark))

    def _mark(self, event: Any) -> Mark:
        start, end = event.start_mark, event.end_mark
        line = self._source.line(start.line + 1)
        last = end.column if end.line == start.line else len(line)
        return Mark(self._source, start.line + 1, start.column + 1, max(1, last - start.column))

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event)
        if depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH} levels", mark)
        self._count(1, mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", mark, depth)
        if event.tag is not None:
            self._faults.error(
                "MC102",
                f"tags are not part of a recipe: `{shown(event.tag)}`",
                mark,
                hint="types follow from how a value is written; put text in quotes",
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # an alias below would hold itself
        node = self._content(event, mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Any, mark: Mark, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            return ListNode(items, mark)
        found = MapNode(mark)
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            self._pair(found, key, depth)
        return found

    def _pair(self, into: MapNode, key: Any, depth: int) -> None:
        node = self._node(key, depth + 1)
        value = self._node(self._next(), depth + 1)
        if not isinstance(node, ScalarNode) or (node.value is None and not node.quoted):
            if not node.poisoned:
                self._faults.error("MC102", "a key must be a name", node.mark)
            return
        name = node.text
        if name == "<<" and not node.quoted:
            self._faults.error(
                "MC102",
                "merge keys (`<<`) are not part of YAML 1.2",
                node.mark,
                hint="write the keys out, or use `vars`",
            )
            return
        if name in into.entries:
            first = into.entries[name].key
            self._faults.error("MC102", f"duplicate key `{shown(name)}`; the first is on line {first.line}", node.mark)
            return
        if isinstance(value, ScalarNode) and value.value is None and not value.text:
            value.mark = node.mark  # nothing is written there to point at
        into.entries[name] = MapEntry(node.mark, value)

    def _scalar(self, event: Any, mark: Mark) -> ScalarNode:
        text: str = event.value
        quoted = event.style is not None
        poisoned = False
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._faults.error("MC102", "half a surrogate pair is not a character", mark)
            return ScalarNode(None, mark, "", quoted, poisoned=True)
        value = None
        try:
            value = text if quoted else resolve(text)
        except ValueError as error:
            self._faults.error("MC104", f"`{shown(text)}`: {error}", mark)
            poisoned = True
        return ScalarNode(value, mark, text, quoted, poisoned=poisoned)

    def _alias(self, name: str, mark: Mark, depth: int) -> Node:
        target = self._anchors.get(name)
        if target is None:
            held = name in self._anchors
            self._faults.error(
                "MC102",
                f"alias `*{shown(name)}` is inside the value it stands for"
                if held
                else f"alias `*{shown(name)}` has no anchor `&{shown(name)}` before it",
                mark,
                hint="" if held else "put text that starts with `*` in quotes",
            )
            return ScalarNode(None, mark, "", poisoned=True)
        self._count(count(target) - 1, mark)
        self._repeated += characters(target)
        if self._repeated > MAX_BYTES:
            self._fail("more than 1 MiB of text once aliases are followed", mark)
        if depth + _height(target) - 1 > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH} levels once aliases are followed", mark)
        return clone(target)

    def _count(self, more: int, mark: Mark) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            self._fail(f"more than {MAX_NODES} values once aliases are followed", mark)


def _height(node: Node) -> int:
    if isinstance(node, ListNode):
        return 1 + max(map(_height, node.items), default=0)
    if isinstance(node, MapNode):
        return 1 + max((_height(entry.value) for entry in node.entries.values()), default=0)
    return 1


def _point(source: Source, mark: Any) -> Mark:
    return Mark(source, mark.line + 1, mark.column + 1)
