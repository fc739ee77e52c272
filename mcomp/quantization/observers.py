"""A histogram that needs no range beforehand and merges exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.errors import StageError

_KEYS = 1 << 16
#: Elements looked at per tensor; the extremes are always taken over all of them.
_SAMPLE = 1 << 18


class FloatHistogram:
    """Counts of a tensor's values by the top 16 bits of each float: sign, exponent, 7 bits of mantissa.

    Every bin is less than 0.8 % wide relative to its values, whatever their size. Counts add up, so
    batches and workers merge in any order to the same histogram. ``update`` counts a regular sample of
    large tensors (always the same elements); ``low`` and ``high`` are exact.

    Attributes:
        counts: int64 ``[65536]``, indexed by the unsigned top half of the float's bits.
        low: smallest value seen.
        high: largest value seen.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(_KEYS, dtype=torch.int64)
        self.low = float("inf")
        self.high = float("-inf")

    @property
    def empty(self) -> bool:
        """Whether nothing was counted yet."""
        return self.low > self.high

    @property
    def peak(self) -> float:
        """Largest magnitude seen."""
        return max(abs(self.low), abs(self.high)) if not self.empty else 0.0

    def update(self, x: Tensor, name: str = "") -> None:
        """Count the values of ``x``; ``name`` is for the error message.

        Raises:
            StageError: ``x`` holds inf or nan; nothing is counted then.
        """
        if x.numel() == 0:
            return
        x = x.detach().float()
        extremes = torch.aminmax(x)
        low, high = float(extremes.min), float(extremes.max)
        if not (low > float("-inf") and high < float("inf")):  # also false for nan
            raise StageError(
                f"calibration met inf or nan at `{name or 'a tensor'}`",
                code="MC424",
                why=f"values range from {low:g} to {high:g}",
                hint="check the data's normalisation and the checkpoint",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = x.flatten()
        stride = flat.numel() // _SAMPLE | 1  # odd: never in step with a power-of-two image width
        keys = flat[::stride].contiguous().view(torch.int32) >> 16 & _KEYS - 1
        self.counts += torch.bincount(keys, minlength=_KEYS).cpu()

    def merge(self, other: FloatHistogram) -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def magnitudes(self, signed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Lower edges, upper edges and counts (all float64) of the magnitudes seen, in rising order.

        ``signed`` folds negative values onto positive ones; otherwise they count as 0, which is what
        an unsigned grid makes of them. Bins without counts are left out.
        """
        half = _KEYS // 2
        positive, negative = self.counts[:half].clone(), self.counts[half:]
        if signed:
            positive += negative
        else:
            positive[0] += negative.sum()
        used = positive.nonzero().flatten()
        lower = (used << 16).to(torch.int32).view(torch.float32).double()
        upper = ((used + 1) << 16).to(torch.int32).view(torch.float32).double()
        upper[used == 0] = 0.0  # zeros and denormals
        return lower, upper.clamp(max=max(self.peak, 0.0)).maximum(lower), positive[used].double()
