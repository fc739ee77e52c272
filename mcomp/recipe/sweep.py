"""``sweep``: one recipe, many runs. Each point is a handful of assignments, made as ``--set`` makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from mcomp.errors import UsageError, visible
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import MAX_DEPTH
from mcomp.recipe.lock import flow
from mcomp.recipe.schema import COMPOSING
from mcomp.recipe.sets import Applied, Assignment, Step, Target, assign, read_path, target_of, too_deep
from mcomp.recipe.translate import got
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, clone, count, is_null, plain
from mcomp.suggest import did_you_mean, listed

MAX_POINTS = 1000
MAX_AXES = 20
#: Values that all points together may have, counted once more for each path: bounds the time of laying them out.
MAX_VALUES = 1_000_000
_WAYS = ("product", "zip")
#: What every run of a sweep has in common.
_COMMON = (*COMPOSING, "version", "plugins")
_EXAMPLE = 'e.g. `sweep: {product: {"vars.ratio": [0.3, 0.5]}}`'


@dataclass(frozen=True)
class Axis:
    """One path and the values that it takes in turn."""

    path: str
    key: Mark
    steps: tuple[Step, ...]
    values: ListNode
    target: Target


@dataclass(frozen=True)
class Point:
    """One run: an axis and the value it has there, for each axis."""

    values: tuple[tuple[Axis, Node], ...]

    @property
    def plain(self) -> dict[str, Any]:
        """Path to value, as written."""
        return {axis.path: plain(node) for axis, node in self.values}

    def applied(self, root: MapNode, faults: Faults) -> MapNode:
        """A copy of ``root`` with the values of this point."""
        tree = clone(root)
        assert isinstance(tree, MapNode)
        for axis, node in self.values:
            assign(tree, Assignment(axis.steps, clone(node), "MC126"), faults)
        return tree


def take_sweep(root: MapNode, applied: Sequence[Applied], faults: Faults) -> list[Point] | None:
    """Take ``sweep`` out of ``root`` and lay it out.

    Args:
        root: the recipe, composed, with every ``--set`` applied.
        applied: what ``--set`` changed; a value given there takes the place of the ones that the sweep has for it.
        faults: receives what is wrong.

    Returns:
        The points in order, the last path varying fastest; none without a sweep, and None where it is wrong.
    """
    entry = root.entries.pop("sweep", None)
    if entry is None or is_null(entry.value):
        return []
    found = _ways(entry.value, root, faults)
    if found is None or not _distinct([axis for axes in found.values() for axis in axes], faults):
        return None
    crossed, zipped = (_unset(found.get(way, []), applied, faults) for way in _WAYS)
    if crossed is None or zipped is None or not _same_length(zipped, faults):
        return None
    points = math.prod(len(axis.values.items) for axis in (*crossed, *zipped[:1]))
    if points > MAX_POINTS:
        faults.error("MC125", f"the sweep has {points} runs; at most {MAX_POINTS} are laid out", entry.key)
        return None
    axes = (*crossed, *zipped)
    heaviest = sum(max(count(one) for one in axis.values.items) for axis in axes)
    if points * (count(root) + heaviest) * (1 + len(axes)) > MAX_VALUES:
        message = (
            f"the sweep's {points} runs are too large together: {count(root)} values each, {len(axes)} of them paths"
        )
        faults.error("MC125", message, entry.key, hint="sweep fewer values, or split the recipe")
        return None
    return _laid_out(crossed, zipped, root, faults)


def _ways(node: Node, root: MapNode, faults: Faults) -> dict[str, list[Axis]] | None:
    if not isinstance(node, MapNode):
        if not node.poisoned:
            message = f"`sweep` must be a mapping with `product` or `zip`, got {got(node)}"
            faults.error("MC104", message, node.mark, hint=_EXAMPLE)
        return None
    found: dict[str, list[Axis]] = {}
    sound = True
    for name, entry in node.entries.items():
        if name not in _WAYS:
            label = did_you_mean(name, _WAYS)
            hint = "" if label else f"known: {listed(_WAYS)}; {_EXAMPLE}"
            faults.error("MC103", f"unknown key `{shown(name)}` in `sweep`", entry.key, label=label, hint=hint)
            sound = False
        elif not is_null(entry.value):
            axes = _axes(name, entry.value, root, faults)
            sound = sound and axes is not None
            found[name] = axes or []
    return found if sound else None


def _axes(way: str, node: Node, root: MapNode, faults: Faults) -> list[Axis] | None:
    if not isinstance(node, MapNode):
        if not node.poisoned:
            message = f"`{way}` must be a mapping from paths to lists of values, got {got(node)}"
            faults.error("MC104", message, node.mark, hint=_EXAMPLE)
        return None
    if len(node.entries) > MAX_AXES:
        message = f"`{way}` varies {len(node.entries)} paths; at most {MAX_AXES} are laid out"
        faults.error("MC125", message, node.mark)
        return None
    axes = [_axis(path, entry, root, faults) for path, entry in node.entries.items()]
    return None if None in axes else [axis for axis in axes if axis is not None]


def _axis(path: str, entry: MapEntry, root: MapNode, faults: Faults) -> Axis | None:
    key, values = entry.key, entry.value
    quotes = (key.length - len(path)) / 2  # 0 or 1; otherwise escapes have moved every character
    plainly = quotes in (0, 1)

    def mark_at(start: int, length: int) -> Mark:
        return Mark(key.source, key.line, key.column + int(quotes) + start, length) if plainly else key

    steps, end = read_path(path, mark_at)
    if len(steps) > MAX_DEPTH:
        faults.error("MC126", too_deep(path), key)
    elif not steps or end < len(path):
        message = f"`{shown(path)}` is no path to a value"
        place = mark_at(end, 1) if end < len(path) else key
        faults.error("MC126", message, place, hint="e.g. `vars.ratio`, `stages.prune.ratio`")
    elif steps[0].name in _COMMON:
        faults.error("MC126", f"`{steps[0].name}` is the same for all runs of a sweep", steps[0].mark)
    elif not isinstance(values, ListNode):
        if not values.poisoned:
            message = f"a sweep needs a list of values for `{shown(path)}`, got {got(values)}"
            faults.error("MC104", message, values.mark, hint=_EXAMPLE)
    elif not values.items:
        faults.error("MC125", f"the sweep has no value for `{shown(path)}`", values.mark)
    else:
        return Axis(path, key, steps, values, target_of(root, steps))
    return None


def _distinct(axes: Sequence[Axis], faults: Faults) -> bool:
    """False, with the reason recorded, where two axes set the same value, or one a part of the other's."""
    seen: dict[Target, Axis] = {}
    for axis in axes:
        first = seen.setdefault(axis.target, axis)
        if first is not axis:
            faults.error("MC125", f"the sweep sets `{shown(axis.path)}` twice; the first is {_on(first)}", axis.key)
            return False
    for axis in axes:
        above = (axis.target[:length] for length in range(1, len(axis.target)))
        whole = next((seen[target] for target in above if target in seen), None)
        if whole is not None:
            outer, inner = shown(whole.path), shown(axis.path)
            message = f"the sweep sets `{inner}`, and `{outer}` ({whole.key.place}), which it is a part of"
            hint = f"write the values out in those of `{outer}`, or leave one of the two out"
            faults.error("MC125", message, axis.key, hint=hint)
            return False
    return True


def _on(axis: Axis) -> str:
    return f"in {axis.key.place}".replace("in line", "on line")


def _unset(axes: Sequence[Axis], applied: Sequence[Applied], faults: Faults) -> list[Axis] | None:
    """The axes that ``--set`` leaves to the sweep."""
    left = []
    for axis in axes:
        same = [one for one in applied if one.target == axis.target]
        below = [one for one in applied if len(one.target) > len(axis.target) == _common(one.target, axis.target)]
        if same:
            message = f"`--set` gives `{shown(axis.path)}` one value, so the sweep does not vary it"
            faults.warning("MC127", message, same[-1].mark)
        elif below:
            message = f"`--set` changes a part of `{shown(axis.path)}`, which the sweep then replaces"
            faults.error("MC110", message, below[0].mark, hint=f"change the sweep's values at {axis.key}")
            return None
        else:
            left.append(axis)
    return left


def _common(one: Target, other: Target) -> int:
    """How many steps two targets share from the start."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _same_length(axes: Sequence[Axis], faults: Faults) -> bool:
    for axis in axes[1:]:
        first, other = len(axes[0].values.items), len(axis.values.items)
        if other != first:
            message = f"`zip` pairs values: `{shown(axes[0].path)}` has {first}, `{shown(axis.path)}` has {other}"
            faults.error("MC125", message, axis.values.mark, hint="give both as many, or use `product`")
            return False
    return True


def _laid_out(crossed: Sequence[Axis], zipped: Sequence[Axis], root: MapNode, faults: Faults) -> list[Point] | None:
    if not crossed and not zipped:
        return []
    rows: list[tuple[Node, ...]] = list(zip(*(axis.values.items for axis in zipped), strict=True)) or [()]
    axes = (*crossed, *zipped)
    found = [
        Point(tuple(zip(axes, (*values, *row), strict=True)))
        for values in product(*(axis.values.items for axis in crossed))
        for row in rows
    ]
    before = len(faults.errors)
    found[0].applied(root, faults)  # a path that leads nowhere does so in every point
    return None if len(faults.errors) > before else found


def chosen(points: Sequence[Point], values: Mapping[str, Any], name: str) -> Point:
    """The point with these values, of the paths that are still swept; ``1``, ``1.0`` and ``true`` are three values.

    Raises:
        UsageError: MC127, the sweep has no such point any more.
    """
    wanted = {path: flow(value) for path, value in values.items()}
    for point in points:
        if all(flow(value) == wanted.get(path) for path, value in point.plain.items()):
            return point
    run = ", ".join(f"{shown(path)}={shown(value)}" for path, value in wanted.items())
    raise UsageError(
        f"the sweep of `{visible(shown(name))}` has no run with `{visible(run)}` any more",
        code="MC127",
        why="a value that was set changes what the sweep varies, and this is one run of the sweep as it was",
        hint="change the sweep on the recipe itself, then take one of its `variants`",
    )
