"""Which of several things nothing else beats in every respect (Pareto)."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """True where ``one`` is nowhere worse and somewhere better; larger is better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Point]) -> list[int]:
    """Places of those that none dominates, of equal ones the first, in the order given."""
    return [
        place
        for place, point in enumerate(points)
        if not any(dominates(other, point) for other in points) and point not in points[:place]
    ]


def ranks(points: Sequence[Point]) -> list[int]:
    """0 for the front, 1 for the front of the rest, and so on.

    Non-dominated sorting, after Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm" (IEEE TEVC 6, 2002).
    """
    found = [0] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        best = [place for place in left if not any(dominates(points[other], points[place]) for other in left)]
        for place in best:
            found[place] = rank
        left = [place for place in left if place not in set(best)]
        rank += 1
    return found
