"""The values that genes may have, for all genes of a space at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcomp.search.budgets import Vector
from mcomp.search.genes import Gene

#: A real gene falls by this part of its range at a time.
PARTS = 16
_POINTS = 64
_ROUNDING = 1e-9  # of a step: what is so near to a value is meant to be it


class Grid:
    """Ranges and steps of genes. A value is counted from the top, so that it is the same number wherever it is met.

    Args:
        genes: of a space, in its order.

    Attributes:
        low: ``(genes,)`` smallest values.
        high: ``(genes,)`` largest values.
        grain: ``(genes,)`` distance between two values; 0 for reals.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        self.low = np.array([gene.low for gene in genes], dtype=np.float64)
        self.high = np.array([gene.high for gene in genes], dtype=np.float64)
        self.grain = np.array([gene.grain for gene in genes], dtype=np.float64)
        part = (self.high - self.low) / PARTS
        self._unit = np.where(self.grain > 0, self.grain, 1.0)
        self._fall = np.where(self.grain > 0, self._unit * np.maximum(1.0, np.round(part / self._unit)), part)

    def nearest(self, values: Vector) -> Vector:
        """The allowed values nearest to the given ones. Shape ``(..., genes)``."""
        return self._at(np.round(self._steps(values)), values)

    def below(self, values: Vector) -> Vector:
        """The largest allowed values that are not above the given ones; the smallest where there are none."""
        return self._at(np.ceil(self._steps(values) - _ROUNDING), values)

    def fallen(self, values: Vector, times: int = 1) -> Vector:
        """Allowed values, lower by a step: a bit, or a sixteenth of a ratio's range; never below the smallest.

        Shape:
            ``(genes,)`` to ``(genes,)``.
        """
        return self.nearest(values - times * self._fall)

    def fall(self, place: int, value: float) -> float:
        """The same of one gene."""
        low, high, unit = float(self.low[place]), float(self.high[place]), float(self._unit[place])
        fallen = max(value - float(self._fall[place]), low)
        return max(high - round((high - fallen) / unit) * unit, low) if self.grain[place] else fallen

    def between(self, place: int, low: float, high: float) -> Vector:
        """Allowed values of one gene from ``low`` to ``high``, which are among them: all, or 64 of too many."""
        grain = float(self.grain[place])
        if grain == 0:
            return np.linspace(low, high, _POINTS)
        first, last = (round((self.high[place] - end) / grain) for end in (low, high))
        count = min(first - last + 1, _POINTS)
        steps = np.unique(np.round(np.linspace(last, first, count)))[::-1]
        values: Vector = self.high[place] - steps * grain
        return values

    def adjacent(self, place: int, low: float, high: float) -> bool:
        """True where no value of the gene lies between two of its values."""
        return bool(high - low < 1.5 * self.grain[place])

    def _steps(self, values: Vector) -> Vector:
        """How many steps the values are from the top; for reals any number."""
        steps: Vector = (self.high - np.clip(values, self.low, self.high)) / self._unit
        return steps

    def _at(self, steps: Vector, values: Vector) -> Vector:
        stepped = np.maximum(self.high - steps * self._unit, self.low)
        return np.where(self.grain > 0, stepped, np.clip(values, self.low, self.high))
