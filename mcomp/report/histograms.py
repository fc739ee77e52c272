"""How channel strengths moved over the epochs of a sparse training, as one SVG drawing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mcomp.engine.display import escaped

#: What can be spread, as ``<name>_histogram`` in a history, and what its axis is called.
QUANTITIES = {"gamma": "|γ|", "norm": "norm of a channel's filters"}

_WIDTH, _ROW, _LEFT, _TOP, _BOTTOM = 640, 26, 76, 8, 40
_OVERLAP = 1.6  # a tall bar reaches into the row above it
_MOST_ROWS = 24
_INK = 'fill="#4a88d6" fill-opacity=".6" stroke="#4a88d6" stroke-width=".6"'  # told by day and by night


def histogram_rows(history: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The quantity that a history holds histograms of, and its epochs that do; an empty name where none does.

    At most 24 epochs, spread evenly, the first and the last among them.
    """
    for quantity in QUANTITIES:
        found = [row for row in history if _is_histogram(row.get(f"{quantity}_histogram"))]
        if found:
            count = min(len(found), _MOST_ROWS)
            return quantity, [found[index * (len(found) - 1) // max(count - 1, 1)] for index in range(count)]
    return "", []


def histogram_svg(history: Sequence[dict[str, Any]], title: str) -> str:
    """One row of bars per epoch over a common axis from 0; empty where the history holds no histogram.

    The height of a bar is the share of channels per unit of the axis, so that rows compare although each epoch has
    bins of its own width; it grows with the square root, for the bar at zero dwarfs all others once training is done.
    """
    quantity, rows = histogram_rows(history)
    if not rows:
        return ""
    spreads = [row[f"{quantity}_histogram"] for row in rows]
    end = max(float(spread["upper"]) for spread in spreads)
    tallest = max(max(_densities(spread)) for spread in spreads) or 1.0
    height = _TOP + _ROW * (len(rows) + 1) + _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">',
        f"<title>{escaped(title)}</title>",
    ]
    for index, (row, spread) in enumerate(zip(rows, spreads, strict=True)):
        base = _TOP + _ROW * (index + 2)
        small = row.get(f"{quantity}_small")
        label = f"epoch {row.get('epoch', '?')}"
        share = f": {small:.1f} % below 0.01" if isinstance(small, int | float) else ""
        parts += [
            f'<g><path {_INK} d="{_outline(spread, base, end, tallest)}">',
            f"<title>{escaped(label + share)}</title></path>",
            f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{escaped(label)}</text></g>',
        ]
    parts += [*_axis(end, height - _BOTTOM + 4, QUANTITIES[quantity]), "</svg>"]
    return "".join(parts)


def _is_histogram(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    counts, upper = value.get("counts"), value.get("upper")
    sound = isinstance(counts, list) and counts and all(isinstance(count, int) and count >= 0 for count in counts)
    return bool(sound and isinstance(upper, int | float) and upper > 0)


def _densities(spread: dict[str, Any]) -> list[float]:
    total = sum(spread["counts"]) or 1
    width = spread["upper"] / len(spread["counts"])
    return [count / total / width for count in spread["counts"]]


def _outline(spread: dict[str, Any], base: int, end: float, tallest: float) -> str:
    """The upper edge of the bars, closed along the base line."""
    densities = _densities(spread)
    edges = [_x(spread["upper"] * index / len(densities), end) for index in range(len(densities) + 1)]
    points = [f"M{edges[0]:.1f} {base}"]
    for density, (left, right) in zip(densities, pairwise(edges), strict=True):
        y = base - _ROW * _OVERLAP * (density / tallest) ** 0.5
        points.append(f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
    return "".join([*points, f"L{edges[-1]:.1f} {base}Z"])


def _axis(end: float, y: int, name: str) -> list[str]:
    ticks = [
        f'<text x="{_x(end * share, end):.1f}" y="{y + 14}" text-anchor="middle">{end * share:.3g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    middle = _x(end / 2, end)
    return [
        f'<line x1="{_LEFT}" y1="{y}" x2="{_x(end, end):.1f}" y2="{y}"/>',
        *ticks,
        f'<text x="{middle:.1f}" y="{y + 30}" text-anchor="middle">{escaped(name)}</text>',
    ]


def _x(value: float, end: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 24) * value / end
