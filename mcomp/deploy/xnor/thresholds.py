"""Where a sign changes: a batch norm and a sign behind a sum are one comparison of that sum with a number.

Found by asking the layers themselves, not by turning their formula over, so that not even their rounding differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Per channel and never turning back: of these a sign changes at one place at most.
MONOTONE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.Hardtanh)

Function = Callable[[Tensor], Tensor]
# pixels of the image that a function is asked with: enough for the vectorised part of its loop
_SIDE = 8


def of_sums(tail: Sequence[nn.Module], scale: Tensor, bias: Tensor | None, most: int) -> tuple[Tensor, Tensor] | None:
    """The integer sum at which each channel's sign changes behind a layer with that ``scale`` and ``bias``.

    Args:
        tail: the modules between the layer and the sign.
        scale: ``[channels]``.
        bias: likewise.
        most: the largest sum.

    Returns:
        ``(threshold int32, flip bool)``: the sign is +1 where ``(sum >= threshold) != flip``; None where a channel
        becomes NaN.
    """

    def positive(sums: Tensor) -> Tensor:
        outputs = sums.to(torch.float32) * scale
        return _positive(tail, outputs if bias is None else outputs + bias)

    low = torch.full((len(scale),), -most, dtype=torch.int64)
    found = _first(positive, low, -low)
    return found and (found[0].to(torch.int32), found[1])


def of_floats(tail: Sequence[nn.Module], channels: int) -> tuple[Tensor, Tensor] | None:
    """The same in front of ``tail`` for float32 numbers: ``(threshold float32, flip bool)``."""
    top = torch.full((channels,), torch.finfo(torch.float32).max)
    found = _first(lambda ranks: _positive(tail, _float_of(ranks)), _rank_of(-top), _rank_of(top))
    if found is None:
        return None
    threshold = _float_of(found[0])
    return torch.where(threshold == -top, -torch.inf, threshold), found[1]  # constant, for -inf too


def _positive(tail: Sequence[nn.Module], outputs: Tensor) -> Tensor:
    """Whether each channel is at least 0 behind ``tail``; NaN where it is neither."""
    image = outputs.view(1, -1, 1, 1).expand(1, -1, _SIDE, _SIDE).contiguous()
    with torch.inference_mode():
        for module in tail:
            if isinstance(module, nn.BatchNorm1d):
                image = module(image.flatten(2)).view_as(image)
            else:
                image = module(image.clone())
    value = image[0, :, 0, 0].clone()
    return torch.where(value.isnan(), value, (value >= 0).to(value.dtype))


def _first(positive: Function, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor] | None:
    """By halving: the smallest integer in ``low .. high`` with the answer of ``high``, and whether that is False."""
    at_low, at_high = positive(low), positive(high)
    if bool(at_low.isnan().any() | at_high.isnan().any()):
        return None
    constant = at_low == at_high
    first, last = low.clone(), high.clone()  # the answer changes in (first, last]
    while bool((last - first > 1).any()):
        middle = torch.div(first + last, 2, rounding_mode="floor")
        changed = positive(middle) == at_high
        last, first = torch.where(changed, middle, last), torch.where(changed, first, middle)
    return torch.where(constant, low, last), at_high == 0


def _rank_of(x: Tensor) -> Tensor:
    """Float32 numbers as integers of the same order."""
    bits = x.view(torch.int32).to(torch.int64)
    return torch.where(bits >= 0, bits, -(bits + (1 << 31)))


def _float_of(ranks: Tensor) -> Tensor:
    bits = torch.where(ranks >= 0, ranks, -ranks - (1 << 31))
    return bits.to(torch.int32).view(torch.float32)
