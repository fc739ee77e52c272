"""Both ends of an asymmetric clip range out of one histogram: min-max, percentile, least squares, entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcomp.quantization.ranges import PERCENTILE, Method, check_method, clip_range

if TYPE_CHECKING:
    from mcomp.quantization.observers.float_histogram import FloatHistogram

_SHRINK = 16  # candidates for each end in one sweep
_BINS = 1024  # values that the search looks at


def asymmetric_range(histogram: FloatHistogram, method: Method, steps: int) -> tuple[float, float]:
    """``low <= 0 <= high`` that an asymmetric grid should span; 0 is always inside, so that padding is exact.

    Args:
        histogram: what was seen, at least one value.
        method: ``minmax`` the extremes; ``percentile`` leaves 0.01 % of the values out at each end; ``mse`` the least
            squared error over both ends; ``entropy`` cuts both sides where the symmetric grid would.
        steps: ``qmax - qmin``.

    Raises:
        UsageError: the method is not offered.
    """
    check_method(method)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or low == high:
        return low, high
    if method == "entropy":
        cut = clip_range(histogram, method, max(steps // 2, 1), signed=True)
        return max(low, -cut), min(high, cut)
    lower, upper, counts = histogram.values()
    if method == "percentile":
        found = _percentiles(lower, upper, counts)
    else:
        found = _least_squares(*_coarser((lower + upper) / 2, counts), steps, low, high)
    return max(low, min(found[0], 0.0)), min(high, max(found[1], 0.0))


def _percentiles(lower: Tensor, upper: Tensor, counts: Tensor) -> tuple[float, float]:
    tail = counts.sum() * (1 - PERCENTILE / 100)
    first = int((counts.cumsum(0) <= tail).sum())
    last = len(counts) - 1 - int((counts.flip(0).cumsum(0) <= tail).sum())
    if first > last or lower[first] == upper[last]:  # one value is all there is
        return float(lower[0]), float(upper[-1])
    return float(lower[first]), float(upper[last])


def _coarser(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring bins joined until few are left; each keeps its mean value."""
    group = -(-len(values) // _BINS)
    if group == 1:
        return values, counts
    short = -len(values) % group
    values, counts = torch.nn.functional.pad(values, (0, short)), torch.nn.functional.pad(counts, (0, short))
    total = counts.view(-1, group).sum(1)
    return (values * counts).view(-1, group).sum(1) / total, total


def _least_squares(values: Tensor, counts: Tensor, steps: int, low: float, high: float) -> tuple[float, float]:
    """A coarse sweep over both ends, each down to a sixteenth, then a fine one around its best."""
    coarse = torch.logspace(0, -4, _SHRINK, base=2, dtype=torch.float64)
    best = _sweep(values, counts, steps, low * coarse, high * coarse)
    fine = torch.logspace(-0.27, 0.27, _SHRINK + 1, base=2, dtype=torch.float64)
    return _sweep(values, counts, steps, (best[0] * fine).clamp(min=low), (best[1] * fine).clamp(max=high))


def _sweep(values: Tensor, counts: Tensor, steps: int, lows: Tensor, highs: Tensor) -> tuple[float, float]:
    least, found = float("inf"), (float(lows[0]), float(highs[0]))
    for low in torch.unique(lows):  # one end is 0 where all values have one sign
        ends = torch.unique(highs).flip(0)
        scale = ((ends - low) / steps)[:, None]
        kept = (values / scale).round_()
        zero = (-low / scale).round_()
        kept = kept.add_(zero).clamp_(0, steps).sub_(zero).mul_(scale)
        errors = (kept.sub_(values).square_() * counts).sum(1)
        place = int(errors.argmin())
        if float(errors[place]) < least:
            least, found = float(errors[place]), (float(low), float(ends[place]))
    return found
