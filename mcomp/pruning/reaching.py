"""Reach a target of MACs, parameters or milliseconds: how much has to go is found by bisection.

The cost of a cut is told from its widths alone (:mod:`mcomp.pruning.cost_form`), so that hundreds are tried without
building a network. What the form leaves out, such as the products of attention, and what the network's code makes of
the widths, shows in the network that is then cut; the next attempt allows for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mcomp.errors import StageError
from mcomp.pruning.allocation import Allocation
from mcomp.pruning.channel_surgery import Surgery
from mcomp.pruning.fitting import Fitting
from mcomp.pruning.stepping import stepped
from mcomp.pruning.targets import TOLERANCE, Kind

_HALVINGS = 30
_ATTEMPTS = 8
_NUDGES = 5

#: Relative distance that is near enough to stop looking; half of what may be missed.
_NEAR = TOLERANCE / 2

#: How much easier a ratio some groups may get, where the next one does not lead there.
_WINDOWS = (0.02, 0.06)

#: Nearer than this, no group is let off the last step of rounding.
_FINE = TOLERANCE / 20
_ALL = 1 - 1e-12


@dataclass(frozen=True)
class Goal:
    """What to reach, and how it is told.

    Attributes:
        kind: for messages.
        amount: the figure to reach.
        whole: the figure of the whole network.
        predicted: widths of all groups to what they will cost, never less for wider ones.
        measured: of a cut, and the MACs that were traced of its network, for the whole batch: what it costs.
    """

    kind: Kind
    amount: float
    whole: float
    predicted: Callable[[Mapping[str, float]], float]
    measured: Callable[[Surgery, int], float]


@dataclass(frozen=True)
class Reached:
    """Where a search ended.

    Attributes:
        surgery: what to do.
        figure: what its network costs.
        macs: of that network, for the whole batch.
        note: by how much the goal was missed; empty where it was reached.
    """

    surgery: Surgery
    figure: float
    macs: int
    note: str = ""


def reach_goal(fitting: Fitting, goal: Goal) -> Reached:
    """Cut so much that the network costs what ``goal`` says, as nearly as rounding allows.

    Args:
        fitting: with scores of which no two are equal; its allocation's ratio is searched for.
        goal: what to reach.

    Returns:
        The nearest of the networks that were cut; nothing is cut where the whole one is there already.

    Raises:
        StageError: MC455, the goal lies below what the smallest network costs; or no group can be pruned.
    """
    fitting.counts()  # refuses what has nothing to prune
    if goal.amount >= goal.whole:
        text = f"`{goal.kind}`: {_figure(goal, goal.whole)} is no more than the {_figure(goal, goal.amount)} asked for"
        return Reached(Surgery(), goal.whole, fitting.groups.trace.macs, text)
    best: Reached | None = None
    bounds = _Bracket(goal.amount)
    seen: list[dict[str, int]] = []
    aim = goal.amount * (goal.predicted({}) / goal.whole)
    for _ in range(_ATTEMPTS):
        fitting.allocation = _nearest(fitting, goal, aim)
        surgery = fitting.run()
        counts = fitting.counts()
        found = Reached(surgery, goal.measured(surgery, fitting.macs), fitting.macs)
        if best is None or abs(found.figure - goal.amount) < abs(best.figure - goal.amount):
            best, chosen = found, fitting.allocation
        if abs(found.figure - goal.amount) <= _NEAR * goal.amount:
            break
        predicted = goal.predicted(counts)
        if found.figure > (1 + TOLERANCE) * goal.amount and _is_least(fitting, goal, predicted):
            raise _unreachable(goal, found.figure)
        seen.append(counts)
        fresh = _fresh_aim(fitting, goal, bounds.next_aim(predicted, found.figure), found.figure, seen)
        if fresh is None:
            break
        aim = fresh
    assert best is not None
    fitting.allocation = chosen
    best = _stepwise(fitting, goal, best)
    fitting.macs = best.macs
    missed = abs(best.figure - goal.amount) / goal.amount
    if missed <= TOLERANCE:
        return best
    limit = "what was measured comes" if goal.kind == "latency_ms" else "the widths that are possible come"
    text = (
        f"`{goal.kind}`: {_figure(goal, goal.amount)} was asked for, {_figure(goal, best.figure)} is as near as "
        f"{limit}: {100 * missed:.1f} % off"
    )
    return replace(best, note=text)


@dataclass
class _Bracket:
    """What predictions led to, below and above the goal, as ``(predicted, found)``."""

    amount: float
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None

    def next_aim(self, predicted: float, found: float) -> float:
        if found > self.amount:
            self.above = (predicted, found)
        else:
            self.below = (predicted, found)
        if self.below is None or self.above is None or self.above[1] == self.below[1]:
            return predicted * self.amount / found
        share = (self.amount - self.below[1]) / (self.above[1] - self.below[1])
        return self.below[0] + share * (self.above[0] - self.below[0])


def _fresh_aim(fitting: Fitting, goal: Goal, aim: float, figure: float, seen: list[dict[str, int]]) -> float | None:
    """The aim, moved towards the goal until it leads to widths that were not tried; None where none does."""
    allocation, sign = fitting.allocation, 1 if figure < goal.amount else -1
    try:
        for nudge in range(_NUDGES):
            moved = aim * (1 + sign * nudge * _NEAR)
            fitting.allocation = _nearest(fitting, goal, moved)
            if fitting.counts() not in seen:
                return moved
    finally:
        fitting.allocation = allocation
    return None


def _nearest(fitting: Fitting, goal: Goal, aim: float) -> Allocation:
    """The allocation whose predicted cost is nearest to ``aim``."""
    start = replace(fitting.allocation, eased=frozenset(), eased_ratio=None)

    low, high = 0.0, _ALL
    if _cost(fitting, goal, replace(start, ratio=high)) >= aim:
        return replace(start, ratio=high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _cost(fitting, goal, replace(start, ratio=middle)) > aim else (low, middle)
    best, miss = replace(start, ratio=high), abs(_cost(fitting, goal, replace(start, ratio=high)) - aim)
    for easier in (low, high - _WINDOWS[0], high - _WINDOWS[1]):
        if miss > _FINE * aim:
            trial = _eased(fitting, goal, aim, replace(start, ratio=high), easier if easier > 0 else None)
            if abs(_cost(fitting, goal, trial) - aim) < miss:
                best, miss = trial, abs(_cost(fitting, goal, trial) - aim)
    return best


def _cost(fitting: Fitting, goal: Goal, allocation: Allocation) -> float:
    """What the widths are predicted to cost that ``allocation`` leads to; it is the fitting's from here on."""
    fitting.allocation = allocation
    return goal.predicted(fitting.counts())


def _eased(fitting: Fitting, goal: Goal, aim: float, start: Allocation, easier: float | None) -> Allocation:
    """``start`` with some groups let off with an easier ratio, the costliest first, as long as that leads to ``aim``.

    Many groups may change their width at one ratio, and by much.
    """
    names = _differing(fitting, start, replace(start, ratio=easier))
    alone = {name: _cost(fitting, goal, replace(start, eased=frozenset({name}), eased_ratio=easier)) for name in names}
    best, miss = start, abs(_cost(fitting, goal, start) - aim)
    for name in sorted(alone, key=lambda name: (-alone[name], name)):
        trial = replace(best, eased=best.eased | {name}, eased_ratio=easier)
        distance = abs(_cost(fitting, goal, trial) - aim)
        if distance < miss:
            best, miss = trial, distance
    return best


def _differing(fitting: Fitting, lower: Allocation, upper: Allocation) -> list[str]:
    fitting.allocation = lower
    below = fitting.counts()
    fitting.allocation = upper
    return [name for name, kept in fitting.counts().items() if kept != below[name]]


def _stepwise(fitting: Fitting, goal: Goal, best: Reached) -> Reached:
    """``best``, or where it misses the goal one with the widths of some groups a few steps apart that is nearer.

    Groups that cost something else than the prediction says are not moved again.
    """
    still: set[str] = set()
    told = {*fitting.allocation.fixed}  # the person's own widths stay
    for _ in range(_ATTEMPTS):
        missing = goal.amount - best.figure
        if abs(missing) <= TOLERANCE * goal.amount:
            break
        allocation, counts = fitting.allocation, fitting.counts()
        groups = [group for group in fitting.groups.prunable if group.name not in told | still]
        bases = {group.name: fitting.base(group) for group in groups}
        change = missing * goal.predicted(counts) / best.figure
        moved = stepped(groups, bases, counts, fitting.min_channels, goal.predicted, change)
        if moved == counts:
            break
        fitting.allocation = replace(allocation, fixed={**allocation.fixed, **moved})
        surgery = fitting.run()
        found = Reached(surgery, goal.measured(surgery, fitting.macs), fitting.macs)
        if abs(goal.amount - found.figure) < abs(missing):
            best = found
        else:
            fitting.allocation = allocation
            alone = {name: abs(goal.predicted(counts | {name: moved[name]}) - goal.predicted(counts)) for name in moved}
            still.add(max(alone, key=lambda name: alone[name]))
    fitting.counts()
    return best


def _is_least(fitting: Fitting, goal: Goal, predicted: float) -> bool:
    allocation = fitting.allocation
    fitting.allocation = replace(allocation, ratio=_ALL, eased=frozenset())
    least = goal.predicted(fitting.counts())
    fitting.allocation = allocation
    return predicted <= least


def _unreachable(goal: Goal, least: float) -> StageError:
    return StageError(
        f"`{goal.kind}`: {_figure(goal, goal.amount)} cannot be reached: "
        f"{_figure(goal, least)} remain where every layer keeps its least",
        code="MC455",
        why=f"the whole network has {_figure(goal, goal.whole)}",
        hint="ask for more, or allow narrower layers: a smaller `regular` or `min_channels`, fewer layers in `ignore`",
    )


def _figure(goal: Goal, value: float) -> str:
    if goal.kind == "latency_ms":
        return f"{value:.3g} ms"
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"
