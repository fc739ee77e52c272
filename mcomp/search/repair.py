"""Bring a genome under its budgets: lower what costs the least quality per unit of cost, and no further than needed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mcomp.errors import UsageError
from mcomp.search.budgets import Budget, Vector
from mcomp.search.grid import Grid
from mcomp.search.sensitivity import Sensitivity

_ROUNDS = 3
_NOISE = 1e-12  # of a budget: a saving that is no more is the rounding of a sum


def repair(values: Vector, grid: Grid, budgets: Sequence[Budget], sensitivity: Sensitivity) -> Vector:
    """The genome below the given one that keeps every budget.

    One step at a time falls the gene whose loss per saved share of the broken budgets is smallest (the first of equal
    ones): a bit, or a sixteenth of a ratio's range; more of them where the cost is a staircase and one saves nothing.
    Then what fell is raised again where room is left, the largest regained loss first, so that no single step can be
    taken back.

    Args:
        values: ``(genes,)``, on the grid. Not changed.
        grid: of the space.
        budgets: what to keep.
        sensitivity: what lowering each gene loses.

    Raises:
        UsageError: MC482, a budget is broken with every gene at its smallest.
    """
    if all(budget.value(values) <= budget.bound for budget in budgets):
        return values
    lowered = _lower(values.copy(), grid, budgets, sensitivity)
    return _raise(lowered, values, grid, budgets, sensitivity)


def _lower(values: Vector, grid: Grid, budgets: Sequence[Budget], sensitivity: Sensitivity) -> Vector:
    below = grid.fallen(values)
    here, there = sensitivity.losses(values), sensitivity.losses(below)
    idle = values <= grid.low  # alone these save nothing, however low
    broken = [_Broken(budget, budget.value(values)) for budget in budgets]
    while broken := [one for one in broken if one.cost > one.budget.bound]:
        places = np.flatnonzero((values > grid.low) & ~idle)
        saved = _saved(broken, values, below, places)
        if (flat := places[saved <= _NOISE]).size:
            _step_off(flat, values, below, idle, grid, broken)
            there[flat] = [sensitivity.loss(int(place), below[place]) for place in flat]
            saved = _saved(broken, values, below, places)
        if (saved > _NOISE).any():
            price = np.where(saved > _NOISE, (there - here)[places] / np.maximum(saved, _NOISE), np.inf)
        else:  # several hold the cost up together, as the slowest of two branches does
            idle = values <= grid.low
            places = np.flatnonzero(~idle)
            if not places.size:
                raise _does_not_fall(broken[0].budget, values)
            _saved(broken, values, below, places)
            price = (there - here)[places]
        chosen = int(np.argmin(price))
        place = int(places[chosen])
        values[place] = below[place]
        below[place] = grid.fall(place, values[place])
        here[place], there[place] = there[place], sensitivity.loss(place, below[place])
        for one in broken:
            one.pay(chosen, values)
    return values


@dataclass
class _Broken:
    """A budget, what the genome costs, and what each of some genes saved when last asked."""

    budget: Budget
    cost: float
    savings: Vector = field(default_factory=lambda: np.empty(0))

    def share(self, values: Vector, below: Vector, places: NDArray[np.intp]) -> Vector:
        """Part of the limit that each saves, no more than what is over."""
        self.savings = self.budget.savings(values, below, places, self.cost)
        share: Vector = np.minimum(self.savings, self.cost - self.budget.limit) / self.budget.limit
        return share

    def pay(self, chosen: int, values: Vector) -> None:
        """One of those has fallen. What is kept is kept to the last digit: sums of savings are rounded."""
        self.cost -= float(self.savings[chosen])
        if self.cost <= self.budget.bound:
            self.cost = self.budget.value(values)


def _saved(broken: Sequence[_Broken], values: Vector, below: Vector, places: NDArray[np.intp]) -> Vector:
    """Share of the broken budgets that each of some genes saves alone. Shape ``(k,)``."""
    saved = np.zeros(len(places))
    for one in broken if places.size else ():
        saved += one.share(values, below, places)
    return saved


def _step_off(
    flat: NDArray[np.intp],
    values: Vector,
    below: Vector,
    idle: NDArray[np.bool_],
    grid: Grid,
    broken: Sequence[_Broken],
) -> None:
    """Move ``below`` of genes that stand on a stair to where they save something; those that never do are ``idle``."""
    idle[flat[_saved(broken, values, grid.low, flat) <= _NOISE]] = True
    flat = flat[~idle[flat]]
    for times in itertools.count(2):
        if not flat.size:
            return
        below[flat] = grid.fallen(values, times)[flat]
        flat = flat[_saved(broken, values, below, flat) <= _NOISE]


def _raise(values: Vector, wanted: Vector, grid: Grid, budgets: Sequence[Budget], sensitivity: Sensitivity) -> Vector:
    regained = sensitivity.losses(values) - sensitivity.losses(wanted)
    fallen = np.flatnonzero(values < wanted)
    for place in fallen[np.argsort(-regained[fallen], kind="stable")]:
        values[place] = _highest(values, int(place), wanted[place], grid, budgets)
    return values


def _highest(values: Vector, place: int, top: float, grid: Grid, budgets: Sequence[Budget]) -> float:
    """The largest value of one gene, at most ``top``, with which a genome that keeps the budgets still keeps them."""
    bottom = float(values[place])
    for _ in range(_ROUNDS):
        tried = grid.between(place, bottom, top)
        kept = _fits(values, place, tried, budgets)
        last = int(np.flatnonzero(kept)[-1]) if kept.any() else 0
        bottom = float(tried[last])
        if last == len(tried) - 1 or grid.adjacent(place, *tried[last : last + 2]):
            break
        top = float(tried[last + 1])
    return bottom


def _fits(values: Vector, place: int, tried: Vector, budgets: Sequence[Budget]) -> NDArray[np.bool_]:
    """With which values of one gene all budgets are kept. Shape ``(k,)`` to ``(k,)``."""
    rows = np.repeat(values[None], len(tried), axis=0)
    rows[:, place] = tried
    kept = np.ones(len(tried), dtype=bool)
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
