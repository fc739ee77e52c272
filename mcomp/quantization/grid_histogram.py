"""Histograms of one tensor before and after quantisation, over one axis with the grid on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.integers import QParams, along
from mcomp.quantization.observers import FloatHistogram

BINS = 64
#: More levels than that are no lines any more.
MOST_LINES = 33
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class GridHistogram:
    """Shares of a tensor's values in bins of equal width.

    Attributes:
        low: left end of the first bin.
        high: right end of the last bin.
        before: percent of the values in each bin.
        after: percent of the quantised values.
        levels: the grid, where it has at most 33 levels; else empty.
        unit: ``value``, or ``step`` where each channel has a scale of its own and values are counted in its steps.
    """

    low: float
    high: float
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    unit: str = "value"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(vars(self))


class GridCounter:
    """Counts values and levels batch by batch; keeps no tensor.

    Args:
        grid: of the quantiser, or of the first tensor where each tensor has its own.
        own_grids: whether each tensor has its own.

    Attributes:
        levels: int64, how many values fell on each level, counted from the one of 0 in the middle.
    """

    def __init__(self, grid: QParams, own_grids: bool = False) -> None:
        self.grid = grid
        self.own_grids = own_grids
        self.in_steps = own_grids or (isinstance(grid.scale, Tensor) and grid.scale.numel() > 1)
        self.values = FloatHistogram()
        self.span = grid.qmax - grid.qmin
        self.levels = torch.zeros(2 * self.span + 1, dtype=torch.int64)

    @property
    def used(self) -> int:
        """How many levels some value fell on."""
        return int((self.levels > 0).sum())

    def update(self, before: Tensor, after: Tensor, grid: QParams) -> None:
        """Count a tensor and what ``grid`` made of it."""
        scale = torch.as_tensor(grid.scale).to(before.device)
        if scale.numel() > 1:
            scale = along(scale, before.dim(), grid.axis or 0)
        levels = (after.float() / scale).round().flatten()
        sample = levels[:: levels.numel() // _SAMPLE | 1].long() + self.span
        self.levels += torch.bincount(sample.clamp(0, 2 * self.span), minlength=2 * self.span + 1).cpu()
        self.values.update(before / scale if self.in_steps else before)

    def histogram(self) -> GridHistogram:
        """What was counted, over the tensor's range and the levels that it met."""
        step = 1.0 if self.in_steps else float(self.grid.scale)
        places = torch.arange(-self.span, self.span + 1, dtype=torch.float64) * step
        met = places[self.levels > 0]
        low, high = min(self.values.low, float(met.min())), max(self.values.high, float(met.max()))
        if high <= low:
            high = low + 1.0
        low, high = low - (high - low) / BINS, high + (high - low) / BINS
        lower, upper, counts = self.values.values()
        before = _binned((lower + upper) / 2, counts, low, high)
        after = _binned(places, self.levels.double(), low, high)
        shown = [float(f"{level:.6g}") for level in self._lines(places).tolist() if low <= level <= high]
        return GridHistogram(low, high, before, after, shown, "step" if self.in_steps else "value")

    def _lines(self, places: Tensor) -> Tensor:
        """The levels of a coarse grid; of a binary one those it has, 0 between them being none."""
        if self.span >= MOST_LINES:
            return places[:0]
        zero = self.grid.zero_point
        if self.span < 3 or self.own_grids or isinstance(zero, Tensor):  # in steps every whole number is a level
            return places if self.in_steps and self.span >= 3 else places[self.levels > 0]
        start = self.span + self.grid.qmin - int(zero)
        return places[start : start + self.span + 1]


def _binned(values: Tensor, counts: Tensor, low: float, high: float) -> list[float]:
    places = ((values - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    binned = torch.zeros(BINS, dtype=torch.float64).scatter_add_(0, places, counts.double())
    shares = 100 * binned / binned.sum().clamp(min=1)
    return [round(share, 3) for share in shares.tolist()]
