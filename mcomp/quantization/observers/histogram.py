"""Percentile, least squares and entropy ranges, all from one histogram."""

from __future__ import annotations

import math

from torch import Tensor

from mcomp.quantization.asymmetric_ranges import asymmetric_range
from mcomp.quantization.observers.base import Observer
from mcomp.quantization.observers.float_histogram import FloatHistogram
from mcomp.quantization.ranges import Method, check_method, clip_range


class HistogramObserver(Observer):
    """Counts values while calibrating and derives the range afterwards; per tensor.

    Args:
        method: ``minmax``, ``percentile``, ``mse`` or ``entropy``, see :func:`mcomp.quantization.ranges.clip_range`.

    Attributes:
        histogram: what was seen.

    Raises:
        UsageError: the method is not offered.
    """

    def __init__(self, method: Method = "mse") -> None:
        super().__init__()
        check_method(method)
        self.method = method
        self.histogram = FloatHistogram()

    @property
    def empty(self) -> bool:
        """Whether nothing was seen yet."""
        return self.histogram.empty

    def update(self, x: Tensor, name: str = "") -> None:
        """Count the values of ``x``."""
        self.histogram.update(x, name)

    def clip(self, levels: int, signed: bool) -> float:
        """The magnitude at which to cut."""
        return clip_range(self.histogram, self.method, levels, signed)

    def range(self, steps: int) -> tuple[float, float]:
        """The ends at which to cut."""
        if self.histogram.empty:
            return math.inf, -math.inf
        return asymmetric_range(self.histogram, self.method, steps)
