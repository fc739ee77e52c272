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
    """Counts values and codes batch by batch; keeps no tensor.

    Args:
        grid: of the quantiser.
    """

    def __init__(self, grid: QParams) -> None:
        self.grid = grid
        self.in_steps = isinstance(grid.scale, Tensor) and grid.scale.numel() > 1
        self.values = FloatHistogram()
        self.codes = torch.zeros(grid.qmax - grid.qmin + 1, dtype=torch.int64)

    def update(self, before: Tensor, after: Tensor) -> None:
        """Count a tensor and what became of it."""
        scale, zero = torch.as_tensor(self.grid.scale), torch.as_tensor(self.grid.zero_point)
        if self.in_steps:
            scale = along(scale.to(before.device), before.dim(), self.grid.axis or 0)
            zero = along(zero, before.dim(), self.grid.axis or 0) if zero.numel() > 1 else zero
            before = before / scale
        codes = (after.float() / scale.to(after.device)).round() + zero.to(after.device) - self.grid.qmin
        flat = codes.flatten()
        sample = flat[:: flat.numel() // _SAMPLE | 1].long().clamp(0, len(self.codes) - 1)
        self.codes += torch.bincount(sample, minlength=len(self.codes)).cpu()
        self.values.update(before)

    def levels(self) -> Tensor:
        """Every value of the grid, float64, in units of the histogram; of a grid per channel with zero point 0."""
        scale = 1.0 if self.in_steps else float(self.grid.scale)
        zero = 0 if self.in_steps else int(self.grid.zero_point)
        return (torch.arange(self.grid.qmin, self.grid.qmax + 1, dtype=torch.float64) - zero) * scale

    def histogram(self) -> GridHistogram:
        """What was counted, over the tensor's range and the levels that it met."""
        levels = self.levels()
        used = levels[self.codes > 0]
        low = min(self.values.low, float(used.min())) if len(used) else self.values.low
        high = max(self.values.high, float(used.max())) if len(used) else self.values.high
        if high <= low:
            high = low + 1.0
        low, high = low - (high - low) / BINS, high + (high - low) / BINS
        lower, upper, counts = self.values.values()
        before = _binned((lower + upper) / 2, counts, low, high)
        after = _binned(levels, self.codes.double(), low, high)
        if self.grid.qmax - self.grid.qmin < 3:  # binary: 0 lies between its levels, and is none
            levels = levels[self.codes > 0]
        shown = levels[(levels >= low) & (levels <= high)] if len(levels) <= MOST_LINES else levels[:0]
        unit = "step" if self.in_steps else "value"
        return GridHistogram(low, high, before, after, [float(f"{level:.6g}") for level in shown.tolist()], unit)


def _binned(values: Tensor, counts: Tensor, low: float, high: float) -> list[float]:
    places = ((values - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    binned = torch.zeros(BINS, dtype=torch.float64).scatter_add_(0, places, counts.double())
    shares = 100 * binned / binned.sum().clamp(min=1)
    return [round(share, 3) for share in shares.tolist()]
