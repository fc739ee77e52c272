"""Signal to quantisation noise, summed up over batches."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

#: A ratio beyond this is rounding of the arithmetic: nothing to tell.
_SILENCE_DB = 140.0


class Noise:
    """Sums over batches of a signal and of what is wrong with it."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, expected: Any, found: Any) -> None:
        """Take in one batch's output and what was found in its place, of the same structure."""
        signal, noise = tensor_noise(expected, found)
        self.signal += signal
        self.noise += noise

    def db(self) -> float | None:
        """The ratio in decibel, or None."""
        return decibel(self.signal, self.noise)


def tensor_noise(expected: Any, found: Any) -> tuple[float, float]:
    """Sums of squares, over all float tensors of two outputs, of the first and of their difference."""
    signal = noise = 0.0
    for mine, theirs in zip(tree_leaves(expected), tree_leaves(found), strict=True):
        if isinstance(mine, Tensor) and mine.is_floating_point():
            signal += float(mine.double().square().sum())
            noise += float((mine - theirs).double().square().sum())
    return signal, noise


def decibel(signal: float, noise: float) -> float | None:
    """``10 log10(signal / noise)``; None where there is no noise beyond that of the arithmetic, or no signal."""
    if not signal or not noise or not math.isfinite(signal / noise):
        return None
    ratio = 10 * math.log10(signal / noise)
    return ratio if ratio < _SILENCE_DB else None
