"""Compare the speed of several calls in one run: turns within rounds, ratios within rounds, medians over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """One contestant.

    Attributes:
        median_ms: milliseconds per call, wall time.
        p95_ms: the 95th percentile.
        speedup: the first contestant's time over this one's, of the same round; the median over rounds.
        quartiles: of these ratios, first and third.
    """

    median_ms: float
    p95_ms: float
    speedup: float
    quartiles: tuple[float, float]


def compare(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 5,
    rounds: int = 30,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Time every call once per round, in an order that moves on by one each round.

    A busy machine is so as unfair to one as to the other: the ratios hold where the absolute figures do not.

    Args:
        calls: name to what is timed; the first is what the others are compared with.
        warmup: unmeasured rounds.
        rounds: measured ones.
        progress: told the round and how many there are.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(max(rounds, 1)):
        for name in _turned(names, number):
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
        if progress is not None:
            progress(number + 1, rounds)
    first = seconds[names[0]]
    return {name: _summary(first, seconds[name]) for name in names}


def _turned(names: list[str], number: int) -> Iterator[str]:
    start = number % len(names)
    yield from names[start:]
    yield from names[:start]


def _summary(first: list[float], own: list[float]) -> Timed:
    ratios = [theirs / mine for theirs, mine in zip(first, own, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    ordered = sorted(own)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Timed(1000 * statistics.median(own), 1000 * p95, statistics.median(ratios), (low, high))
