"""Clip ranges out of one histogram: min-max, percentile, least squares, entropy, for any number of levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.quantization.observers.float_histogram import FloatHistogram

Method = Literal["minmax", "percentile", "mse", "entropy"]

PERCENTILE = 99.99
_ENTROPY_BINS = 2048


def clip_range(histogram: FloatHistogram, method: Method, levels: int, signed: bool) -> float:
    """The largest magnitude that the grid should represent.

    Args:
        histogram: what was seen.
        method: ``minmax`` the largest magnitude; ``percentile`` the 99.99th of the magnitudes; ``mse`` the least
            squared error of the quantised values; ``entropy`` the least Kullback-Leibler divergence between
            the values and their quantised distribution (Migacz, "8-bit inference with TensorRT", 2017).
        levels: positive levels of the grid, 127 for signed INT8.
        signed: whether the grid has negative levels too.

    Returns:
        The clip, 0 where nothing but zeros was seen.

    Raises:
        UsageError: the method is not offered.
    """
    check_method(method)
    largest = max(histogram.peak if signed else histogram.high, 0.0)
    if largest == 0.0 or method == "minmax":
        return largest
    lower, upper, counts = histogram.magnitudes(signed)
    if method == "percentile":
        return min(_percentile(upper, counts), largest)
    if method == "entropy" and 4 * levels <= _ENTROPY_BINS:
        return min(_entropy(lower, upper, counts, levels, largest), largest)
    # a grid this fine has nothing to clip for the entropy's sake: rounding decides
    return _least_squares((lower + upper) / 2, counts, levels, largest)


def check_method(method: str) -> None:
    """Refuse a method that is not offered.

    Raises:
        UsageError: with those that are.
    """
    if method not in get_args(Method):
        raise UsageError(
            f"no calibration method `{method}`", code="MC427", hint=f"one of: {', '.join(get_args(Method))}"
        )


def _percentile(upper: Tensor, counts: Tensor) -> float:
    share = counts.cumsum(0) / counts.sum()
    found = float(upper[int((share < PERCENTILE / 100).sum())])
    return found if found > 0 else float(upper[-1])  # nearly all zeros


def _least_squares(values: Tensor, counts: Tensor, levels: int, largest: float) -> float:
    def error(clips: Tensor) -> Tensor:
        scale = clips[:, None] / levels
        kept = (values / scale).round_().clamp_(max=levels).mul_(scale)
        return ((kept - values).square_() * counts).sum(1)

    # a coarse geometric sweep over four octaves and a half, then a fine one around its best
    coarse = largest * torch.logspace(0, -4.5, 40, base=2, dtype=torch.float64)
    best = coarse[error(coarse).argmin()]
    fine = best * torch.logspace(-0.12, 0.12, 25, base=2, dtype=torch.float64)
    fine = fine[fine <= largest * (1 + 1e-9)]
    return min(float(fine[error(fine).argmin()]), largest)


def _entropy(lower: Tensor, upper: Tensor, counts: Tensor, levels: int, largest: float) -> float:
    linear = _linear_bins(lower.numpy(), upper.numpy(), counts.numpy(), largest)
    best, best_divergence = _ENTROPY_BINS, math.inf
    for bins in range(levels + 1, _ENTROPY_BINS + 1, max(1, _ENTROPY_BINS // 256)):
        divergence = _divergence(linear, bins, levels + 1)
        if divergence < best_divergence:
            best, best_divergence = bins, divergence
    return (best + 0.5) * largest / _ENTROPY_BINS


def _linear_bins(lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, largest: float) -> np.ndarray:
    """Spread the float-keyed counts over equal bins, leaving zeros out: a ReLU's zeros are exact on any grid."""
    positive = upper > 0
    lower, upper, counts = lower[positive], upper[positive], counts[positive]
    edges = np.stack([lower, upper], 1).ravel()
    below = np.stack([np.cumsum(counts) - counts, np.cumsum(counts)], 1).ravel()
    return np.diff(np.interp(np.linspace(0, largest, _ENTROPY_BINS + 1), edges, below))


def _divergence(linear: np.ndarray, bins: int, levels: int) -> float:
    """KL(reference ‖ quantised) when the first ``bins`` bins are kept and shared out to ``levels`` levels."""
    kept = linear[:bins]
    reference = kept.copy()
    reference[-1] += linear[bins:].sum()  # what is clipped lands on the last level
    level = np.arange(bins) * levels // bins
    filled = kept > 0
    mass = np.bincount(level, weights=kept, minlength=levels)
    spread = np.bincount(level, weights=filled, minlength=levels)
    quantised = np.where(filled, (mass / np.maximum(spread, 1))[level], 0.0)
    p, q = reference / reference.sum(), quantised / max(quantised.sum(), 1e-300)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())
