"""Bring a genome under its budgets: lower what costs the least quality per unit of cost, and no further than needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mcomp.errors import UsageError
from mcomp.search.budgets import Budget, Vector
from mcomp.search.genes import Gene
from mcomp.search.sensitivity import Sensitivity

#: A real gene falls by this part of its range at a time.
PARTS = 16
_GRID, _ROUNDS = 64, 3


def repair(values: Vector, genes: Sequence[Gene], budgets: Sequence[Budget], sensitivity: Sensitivity) -> Vector:
    """The genome below the given one that keeps every budget.

    One step at a time falls the gene whose loss per saved share of the broken budgets is smallest (the first of equal
    ones): a bit, or a sixteenth of a ratio's range. Then what fell is raised again where room is left, the largest
    regained loss first, so that no single step can be taken back.

    Args:
        values: ``(genes,)``, inside the ranges and whole where bits are meant. Not changed.
        genes: of the space, in the same order.
        budgets: what to keep.
        sensitivity: what lowering each gene loses.

    Raises:
        UsageError: MC482, a cost does not fall as its genes fall.
    """
    if all(budget.value(values) <= budget.bound for budget in budgets):
        return values
    lowered = _lower(values.copy(), genes, budgets, sensitivity)
    return _raise(lowered, values, genes, budgets, sensitivity)


def _lower(values: Vector, genes: Sequence[Gene], budgets: Sequence[Budget], sensitivity: Sensitivity) -> Vector:
    low = np.array([gene.low for gene in genes])
    steps = np.array([1.0 if gene.whole else (gene.high - gene.low) / PARTS for gene in genes])
    below = np.maximum(values - steps, low)
    here = sensitivity.losses(values)
    there = sensitivity.losses(below)
    while broken := [one for one in budgets if one.value(values) > one.bound]:
        places = np.flatnonzero(values > low)
        saved = np.zeros(len(places))
        for budget in broken:
            over = budget.value(values) - budget.limit
            saved += np.minimum(budget.savings(values, below, places), over) / budget.limit
        if not (saved > 0).any():
            raise _does_not_fall(broken[0], values)
        price = np.where(saved > 0, (there - here)[places] / np.maximum(saved, 1e-300), np.inf)
        place = int(places[np.argmin(price)])
        values[place] = below[place]
        below[place] = max(values[place] - steps[place], low[place])
        here[place], there[place] = there[place], sensitivity.loss(place, below[place])
    return values


def _raise(
    values: Vector, wanted: Vector, genes: Sequence[Gene], budgets: Sequence[Budget], sensitivity: Sensitivity
) -> Vector:
    regained = sensitivity.losses(values) - sensitivity.losses(wanted)
    fallen = np.flatnonzero(values < wanted)
    for place in fallen[np.argsort(-regained[fallen], kind="stable")]:
        values[place] = highest(values, int(place), wanted[place], genes[place].whole, budgets)
    return values


def highest(values: Vector, place: int, top: float, whole: bool, budgets: Sequence[Budget]) -> float:
    """The largest value of one gene, at most ``top``, with which a genome that keeps the budgets still keeps them."""
    bottom = float(values[place])
    for _ in range(1 if whole else _ROUNDS):
        grid = np.arange(bottom, top + 1) if whole else np.linspace(bottom, top, _GRID)
        kept = fits(values, place, grid, budgets)
        last = int(np.flatnonzero(kept)[-1]) if kept.any() else 0
        bottom = float(grid[last])
        if last == len(grid) - 1:
            break
        top = float(grid[last + 1])
    return bottom


def fits(values: Vector, place: int, grid: Vector, budgets: Sequence[Budget]) -> NDArray[np.bool_]:
    """With which values of one gene all budgets are kept. Shape ``(k,)`` to ``(k,)``."""
    rows = np.repeat(values[None], len(grid), axis=0)
    rows[:, place] = grid
    kept = np.ones(len(grid), dtype=bool)
    for budget in budgets:
        kept &= budget.cost(rows) <= budget.bound
    return kept


def _does_not_fall(budget: Budget, values: Vector) -> UsageError:
    return UsageError(
        f"the cost `{budget.name}` does not fall as genes fall: {budget.value(values):g} of {budget.limit:g}",
        code="MC482",
        why="a genome above its budget is lowered until it fits",
        hint="give a cost that no gene raises as it falls",
    )
