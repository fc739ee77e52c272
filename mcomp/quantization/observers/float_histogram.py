"""A histogram that needs no range beforehand and merges exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.quantization.observers.extremes import finite_extremes

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
        low, high = finite_extremes(x, name)
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = x.flatten()
        stride = flat.numel() // _SAMPLE | 1  # odd: never in step with a power-of-two image width
        keys = flat[::stride].contiguous().view(torch.int32) >> 16 & _KEYS - 1
        self.counts += torch.bincount(keys, minlength=_KEYS).cpu()

    def merge(self, other: FloatHistogram) -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def packed(self) -> tuple[Tensor, Tensor, float, float]:
        """Keys (int32) and counts (int64) of the bins in use, ``low`` and ``high``: a few kilobytes to send or save."""
        used = self.counts.nonzero().flatten()
        return used.to(torch.int32), self.counts[used], self.low, self.high

    @classmethod
    def unpacked(cls, keys: Tensor, counts: Tensor, low: float, high: float) -> FloatHistogram:
        """The histogram that :meth:`packed` described."""
        histogram = cls()
        histogram.counts[keys.long()] = counts
        histogram.low, histogram.high = low, high
        return histogram

    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower edges, upper edges and counts (all float64) of the values seen, in rising order, sign kept."""
        half = _KEYS // 2
        negative, positive = self.counts[half:].nonzero().flatten().flip(0), self.counts[:half].nonzero().flatten()
        below, above = _edges(negative), _edges(positive)
        lower, upper = torch.cat([-below[1], above[0]]), torch.cat([-below[0], above[1]])
        counts = torch.cat([self.counts[half + negative], self.counts[positive]])
        return lower.clamp(min=self.low), upper.clamp(max=self.high), counts.double()

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
        lower, upper = _edges(used)
        return lower, upper.clamp(max=max(self.peak, 0.0)).maximum(lower), positive[used].double()


def _edges(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The magnitudes between which the floats with these (sign-less) keys lie, float64."""
    lower = (keys << 16).to(torch.int32).view(torch.float32).double()
    upper = ((keys + 1) << 16).to(torch.int32).view(torch.float32).double()
    upper[keys == 0] = 0.0  # zeros and denormals
    return lower, upper
