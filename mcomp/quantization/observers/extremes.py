"""The smallest and the largest value of a tensor or of each channel, and the refusal of values that are none."""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.errors import StageError
from mcomp.quantization.pieces import at_hand, pieces, rows


def extremes(x: Tensor, axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value in float32: 0-d, or ``[channels]`` along ``axis``; NaN where there is one.

    Straight over the other dimensions: bringing the channels to the front first would copy the tensor.
    """
    x = x.detach()
    if axis is None or x.dim() == 0:
        if not at_hand(x):
            found = torch.aminmax(x)
            return found.min.float(), found.max.float()
        # a piece that was just read for its minimum is still in the cache for its maximum
        both = [(piece.amin(), piece.amax()) for piece in pieces(x)]
        low, high = both[0]
        if len(both) > 1:
            low, high = torch.stack([one[0] for one in both]).amin(), torch.stack([one[1] for one in both]).amax()
        return low.float(), high.float()
    others = [dim for dim in range(x.dim()) if dim != axis % x.dim()]
    if not others:
        return x.float(), x.float()
    ends = [(part.amin(others), part.amax(others)) for (part,) in (rows(x) if others[0] else [(x,)])]
    low, high = ends[0] if len(ends) == 1 else (torch.cat(each) for each in zip(*ends, strict=True))
    return low.float(), high.float()


def relu_extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """0 and the largest value of ``relu(x)``, 0-d in float32: looking for the smallest is spared."""
    peaks = [piece.amax() for piece in (pieces(x.detach()) if at_hand(x) else (x.detach(),))]
    high = peaks[0] if len(peaks) == 1 else torch.stack(peaks).amax()
    high = high.float().clamp_(min=0)
    return torch.zeros_like(high), high


def finite_extremes(x: Tensor, name: str = "") -> tuple[float, float]:
    """Smallest and largest value of a tensor.

    Raises:
        StageError: it holds inf or nan.
    """
    low, high = (float(end) for end in extremes(x))
    refuse_not_finite(low, high, name)
    return low, high


def refuse_not_finite(low: float | Tensor, high: float | Tensor, name: str) -> None:
    """Refuse a range with an end that is no number.

    Raises:
        StageError: with the ends and ``name``.
    """
    if isinstance(low, Tensor):
        low = float(low.amin() if low.dim() else low)
    if isinstance(high, Tensor):
        high = float(high.amax() if high.dim() else high)
    if not (low > float("-inf") and high < float("inf")):  # also false for nan
        raise StageError(
            f"looking for a range met inf or nan at `{name or 'a tensor'}`",
            code="MC424",
            why=f"values range from {low:g} to {high:g}",
            hint="check the data's normalisation, the learning rate and the checkpoint",
        )
