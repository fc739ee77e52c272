"""Dots in a frame with two axes, as one SVG drawing; how far a dot is along its axis is its value, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcomp.engine.display import escaped

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 22, 46
_ROOM = 0.04  # of an axis, beyond the outermost values
_TICKS = 8  # at most about so many
_HALO = 'style="paint-order:stroke;stroke:var(--paper);stroke-width:3"'  # dots behind a text leave it legible
_PREFIXES = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))


@dataclass(frozen=True)
class Dot:
    """A point, and what is said where somebody points at it."""

    x: float
    y: float
    said: str


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: smallest value, with some room below.
        high: largest value, with some room above.
        start: pixel of ``low``.
        end: pixel of ``high``.
        name: what it is an axis of.
    """

    low: float
    high: float
    start: float
    end: float
    name: str

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, name: str) -> Axis:
        """The axis that holds all of the values, which are at least one."""
        known = list(values)
        low, high = min(known), max(known)
        room = _ROOM * (high - low) or max(_ROOM * abs(high), 0.5)
        return cls(low - room, high + room, start, end, name)

    def at(self, value: float) -> float:
        """Where a value is."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    @property
    def _step(self) -> float:
        """The round distance of ticks: 1, 2 or 5 times a power of ten."""
        wanted = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(wanted))
        return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * 0.999)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the axis, and their texts, in the unit that :attr:`title` names."""
        step, (unit, _) = self._step, self._unit
        digits = max(0, -math.floor(math.log10(step / unit) + 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(count * step, f"{count * step / unit + 0.0:.{digits}f}") for count in range(first, last + 1)]

    @property
    def title(self) -> str:
        """The name, with the unit of large numbers."""
        prefix = self._unit[1]
        return f"{self.name}, {prefix}" if prefix else self.name

    @property
    def _unit(self) -> tuple[float, str]:
        return next((one for one in _PREFIXES if self.high >= 10 * one[0]), (1.0, ""))


@dataclass(frozen=True)
class Frame:
    """Two axes at right angles. ``y`` grows upwards."""

    x: Axis
    y: Axis

    @classmethod
    def around(cls, xs: Iterable[float], ys: Iterable[float], x_name: str, y_name: str) -> Frame:
        """The frame that holds all of the values."""
        return cls(
            Axis.over(xs, _LEFT, WIDTH - _RIGHT, x_name),
            Axis.over(ys, HEIGHT - _BOTTOM, _TOP, y_name),
        )

    def dots(self, dots: Sequence[Dot], kind: str, style: str, radius: float) -> str:
        """One circle each, in a group of class ``kind``."""
        circles = "".join(
            f'<circle cx="{self.x.at(dot.x):.2f}" cy="{self.y.at(dot.y):.2f}" r="{radius:g}">'
            f"<title>{escaped(dot.said)}</title></circle>"
            for dot in dots
        )
        return f'<g class="{kind}" style="{style}">{circles}</g>' if dots else ""

    def steps(self, points: Sequence[tuple[float, float]]) -> str:
        """A line that keeps its height from each point to the next, which are in order along ``x``."""
        places = [(self.x.at(x), self.y.at(y)) for x, y in points]
        drawn = "".join(f"H{x:.2f}V{y:.2f}" for x, y in places[1:])
        way = f"M{places[0][0]:.2f} {places[0][1]:.2f}{drawn}"
        return f'<path class="steps" style="fill:none;stroke:var(--main);stroke-width:1.4" d="{way}"/>'

    def ring(self, dot: Dot, text: str) -> str:
        """A mark around a dot, and a text beside it that stays in the frame."""
        x, y = self.x.at(dot.x), self.y.at(dot.y)
        left = x > (self.x.start + self.x.end) / 2
        low = y < (self.y.start + self.y.end) / 2  # the texts of dots near the upper edge stand below them
        return (
            f'<g class="chosen" style="fill:var(--good)"><circle cx="{x:.2f}" cy="{y:.2f}" r="6.5" '
            f'style="fill:none;stroke:var(--good);stroke-width:2"><title>{escaped(dot.said)}</title></circle>'
            f'<text x="{x - 10 if left else x + 10:.2f}" y="{y + 17 if low else y - 9:.2f}" '
            f'text-anchor="{"end" if left else "start"}" {_HALO}>{escaped(text)}</text></g>'
        )

    def limit(self, value: float, text: str) -> str:
        """An upright dashed line."""
        x = self.x.at(value)
        side = "end" if x > (self.x.start + self.x.end) / 2 else "start"
        return (
            f'<path class="limit" style="fill:none;stroke:var(--bad);stroke-dasharray:4 3" '
            f'd="M{x:.2f} {self.y.start}V{self.y.end}"/>'
            f'<text x="{x:.2f}" y="{_TOP - 8}" text-anchor="{side}" style="fill:var(--bad)">{escaped(text)}</text>'
        )

    def svg(self, title: str, description: str, parts: Iterable[str]) -> str:
        """The drawing."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
            f"<title>{escaped(title)}</title><desc>{escaped(description)}</desc>"
            f"{''.join(self._axes())}{''.join(parts)}</svg>"
        )

    def _axes(self) -> Iterable[str]:
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        for value, text in self.x.ticks():
            x = self.x.at(value)
            yield f'<line x1="{x:.2f}" y1="{bottom}" x2="{x:.2f}" y2="{bottom + 4}"/>'
            yield f'<text class="x" x="{x:.2f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        for value, text in self.y.ticks():
            y = self.y.at(value)
            yield f'<line x1="{left}" y1="{y:.2f}" x2="{right}" y2="{y:.2f}" stroke-opacity=".25"/>'
            yield f'<text class="y" x="{left - 6}" y="{y + 4:.2f}" text-anchor="end">{text}</text>'
        yield f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
        yield f'<line x1="{left}" y1="{bottom}" x2="{left}" y2="{top}"/>'
        middle = (left + right) / 2
        yield f'<text x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">{escaped(self.x.title)}</text>'
        yield f'<text x="8" y="{top - 8}">{escaped(self.y.title)}</text>'
