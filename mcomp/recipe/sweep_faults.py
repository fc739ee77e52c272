"""The faults of all points of a sweep, each told once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mcomp.errors import Diagnostic
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.lock import flow
from mcomp.recipe.sweep import Point
from mcomp.recipe.tree import ListNode, MapNode, Mark, Node

_Place = tuple[str, str | None, int | None, int | None]
_MOST_VALUES = 4  # of a point, in a hint


def tell_once(points: Sequence[Point], found: Sequence[Sequence[Diagnostic]], faults: Faults) -> None:
    """Record what the points of a sweep have against them.

    A fault of the recipe is one of every point, and one of a value of every point that has it: of those at one place
    only the first point's are kept. Where it takes the values of a point to bring out a fault that lies elsewhere,
    the hint names them.

    Args:
        points: those that were validated.
        found: what each has, errors and warnings.
        faults: receives them.
    """
    first: dict[_Place, int] = {}
    times: dict[_Place, int] = {}
    for number, diagnostics in enumerate(found):
        for place in {_place(one) for one in diagnostics}:
            first.setdefault(place, number)
            times[place] = times.get(place, 0) + 1
    for number, diagnostics in enumerate(found):
        point = points[number]
        for one in diagnostics:
            place = _place(one)
            if first[place] != number:
                continue
            everywhere = times[place] == len(found)
            faults.take(one if everywhere or _lies_in(point, one) else replace(one, hint=_hint(one, point)))


def _place(one: Diagnostic) -> _Place:
    return one.code, one.file, one.line, one.column


def _hint(one: Diagnostic, point: Point) -> str:
    values = [f"{shown(path)}={shown(flow(value))}" for path, value in point.plain.items()]
    more = ", …" if len(values) > _MOST_VALUES else ""
    where = f"in the sweep's run with `{', '.join(values[:_MOST_VALUES])}{more}`"
    return f"{one.hint}; {where}" if one.hint else where


def _lies_in(point: Point, one: Diagnostic) -> bool:
    """True where a fault is at one of the point's values, or at the path that leads there."""
    for axis, node in point.values:
        for mark in (axis.key, *_marks(node)):
            here = mark.file == one.file and mark.line == one.line and one.column is not None
            if here and mark.column <= (one.column or 0) < mark.column + mark.length:
                return True
    return False


def _marks(node: Node) -> Iterator[Mark]:
    yield node.mark
    if isinstance(node, ListNode):
        for item in node.items:
            yield from _marks(item)
    elif isinstance(node, MapNode):
        for entry in node.entries.values():
            yield entry.key
            yield from _marks(entry.value)
