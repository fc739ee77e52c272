"""The value tree of a recipe: every key and every value knows the characters it came from."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

# What the YAML scanner counts as the end of a line.
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True)
class Source:
    """A text that values come from: a recipe file, or one ``--set``.

    ``name`` is what diagnostics show: the path as given on the command line, or ``--set #1``. ``folder`` is what
    paths in the text are relative to; None for the recipe itself, whose folder the recipe knows. Of a ``--set`` it is
    the folder in which it was given.
    """

    name: str
    text: str
    kind: Literal["file", "set"] = "file"
    folder: Path | None = None

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines without their ends."""
        return _LINE_BREAK.split(self.text)

    def line(self, number: int) -> str:
        """Line ``number``, from 1; empty where there is none."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def mark_at(self, position: int) -> Mark:
        """The character at an offset of the text."""
        before = _LINE_BREAK.split(self.text[:position])
        return Mark(self, len(before), len(before[-1]) + 1)


@dataclass(frozen=True)
class Mark:
    """``length`` characters of a source; lines and columns count from 1."""

    source: Source
    line: int
    column: int
    length: int = 1

    @property
    def file(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def place(self) -> str:
        """Where to look, inside a sentence: a line of the recipe itself, or another file and its line."""
        if self.source.kind == "set":
            return self.file
        return f"line {self.line}" if self.source.folder is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass
class ScalarNode:
    """A single value.

    Attributes:
        value: None, bool, int, float or str by the YAML 1.2 core schema.
        text: as written, without quotes.
        via: where a variable was used, when the value comes from its definition.
        poisoned: already reported as a fault; nothing more is to be said about it.
    """

    value: str | int | float | bool | None
    mark: Mark
    text: str
    quoted: bool = False
    via: Mark | None = None
    poisoned: bool = False


@dataclass
class ListNode:
    """A sequence. ``poisoned``: as for a scalar."""

    items: list[Node]
    mark: Mark
    poisoned: bool = False


@dataclass
class MapEntry:
    """A value and the position of its key."""

    key: Mark
    value: Node


@dataclass
class MapNode:
    """A mapping; keys are always text. ``poisoned``: as for a scalar."""

    mark: Mark
    entries: dict[str, MapEntry] = field(default_factory=dict)
    poisoned: bool = False

    def get(self, key: str) -> Node | None:
        """The value of ``key``, or None."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value


Node = ScalarNode | ListNode | MapNode


def is_null(node: Node | None) -> bool:
    """True for a missing value and for ``null``."""
    return node is None or (isinstance(node, ScalarNode) and node.value is None and not node.poisoned)


def children(node: Node) -> Iterator[Node]:
    """Direct children, in order."""
    if isinstance(node, ListNode):
        yield from node.items
    elif isinstance(node, MapNode):
        for entry in node.entries.values():
            yield entry.value


def walk(node: Node) -> Iterator[Node]:
    """``node`` and everything below it, in document order."""
    yield node
    for child in children(node):
        yield from walk(child)


def count(node: Node) -> int:
    """Number of nodes, ``node`` included."""
    return sum(1 for _ in walk(node))


def characters(node: Node) -> int:
    """Length of all text below ``node``: what a copy would cost once it is written out."""
    return sum(len(one.text) for one in walk(node) if isinstance(one, ScalarNode))


def is_poisoned(node: Node) -> bool:
    """True if something in here was reported already."""
    return any(item.poisoned for item in walk(node))


def clone(node: Node) -> Node:
    """A copy that shares no node, only the marks: two uses of one alias may be changed apart."""
    if isinstance(node, ScalarNode):
        return copy.copy(node)
    if isinstance(node, ListNode):
        return ListNode([clone(item) for item in node.items], node.mark, node.poisoned)
    entries = {key: MapEntry(entry.key, clone(entry.value)) for key, entry in node.entries.items()}
    return MapNode(node.mark, entries, node.poisoned)


def plain(node: Node) -> Any:
    """The value as plain Python objects; what is poisoned is left out."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items if not item.poisoned]
    return {key: plain(entry.value) for key, entry in node.entries.items() if not entry.value.poisoned}
