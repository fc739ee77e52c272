"""The formulas of algorithms as loops and plain arithmetic, written without the code under test."""

from __future__ import annotations

import numpy as np
from torch import Tensor

F32 = np.float32


def levels_by_hand(x: Tensor, scale: float, low: float, high: float) -> np.ndarray:
    """``round(clip(x / scale, low, high))``, the quotient in float32, halves to even."""
    ratio = x.detach().numpy().astype(F32) / F32(scale)
    return np.rint(np.clip(ratio, low, high))


def values_by_hand(x: Tensor, scale: float, low: float, high: float) -> np.ndarray:
    return (levels_by_hand(x, scale, low, high).astype(F32) * F32(scale)).astype(F32)


def inside_by_hand(x: Tensor, scale: float, low: float, high: float, closed: bool = True) -> np.ndarray:
    ratio = x.detach().numpy().astype(F32) / F32(scale)
    return (ratio >= low) & (ratio <= high) if closed else (ratio > low) & (ratio < high)


def learned_by_hand(x: Tensor, g: Tensor, scale: float, low: float, high: float) -> tuple[float, float, float]:
    """Sums of one learned grid, element by element in float64: of rounding, of clipped levels, of what is outside."""
    rounding = clipped = outside = 0.0
    for v, up in zip(x.detach().flatten().tolist(), g.flatten().tolist(), strict=True):
        ratio = float(F32(v) / F32(scale))
        if low < ratio < high:
            rounding += up * (float(np.rint(ratio)) - ratio)
        else:
            clipped += up * (low if ratio <= low else high)
            outside += up
    return rounding, clipped, outside
