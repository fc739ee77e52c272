"""Ternary weights, after Li et al., "Ternary Weight Networks" (arXiv:1605.04711)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.integers import MIN_SCALE, along_first
from mcomp.quantization.pieces import rows
from mcomp.quantization.quantizers.weight import WeightQuantizer
from mcomp.quantization.scaled_signs import sum_per_filter, through_scale


class TernaryWeight(WeightQuantizer):
    """Fake-quantise a weight to ``{-a, 0, +a}``, one ``a`` per output filter.

    The threshold is ``0.7 * mean|W|``; ``a`` is the mean magnitude above it. The gradient passes straight through the
    threshold and follows ``a``: ``a * g + T / count * sum(g * T)`` with ``T`` the signs of what is kept. A filter of
    zeros gives zeros.

    Shape:
        ``(filters, ...)`` to the same shape; computed in float32.
    """

    scheme = "wbwtab"

    def __init__(self) -> None:
        super().__init__(2)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The ternary weight, in the type of ``x``."""
        ternary: Tensor = _Ternarise.apply(x, self.spent)
        return ternary

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-1, 0 and +1, and ``a`` per filter."""
        signs, scale, _ = _by_filter(x.to(torch.float32), _signs_of)
        alive = scale > 0
        return signs.mul_(along_first(alive.to(signs.dtype), x.dim())), torch.where(alive, scale, MIN_SCALE)

    def why(self) -> str:
        """What the integers are, for the report."""
        return "ternary: -1, 0 and +1, one scale per filter"


def _by_filter(weight: Tensor, write: Callable[[Tensor, Tensor], object]) -> tuple[Tensor, Tensor, Tensor]:
    """What ``write(signs, scale)`` makes of a few filters at a time, in place, while they are in the cache.

    Fake-quantised weight and integers both come from here, and so from sums of one order, to the last bit.

    Returns:
        What was written, like ``weight``, the scale and the number of weights kept, ``[filters]``; float32.
    """
    made = torch.empty_like(weight)
    scales, counts = [], []
    for part, out in rows(weight, made):
        scale, count = _ternarise(part, out)
        write(out, scale)
        scales.append(scale.flatten())
        counts.append(count.flatten())
    return made, torch.cat(scales), torch.cat(counts)


def _signs_of(_signs: Tensor, _scale: Tensor) -> None:
    """They are what is asked for."""


def _values_of(signs: Tensor, scale: Tensor) -> None:
    signs.mul_(scale)


def _ternarise(weight: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write the kept signs to ``out``; the scale and the number of those kept, in as many dimensions."""
    excess = torch.abs(weight, out=out)
    threshold = sum_per_filter(excess).div_(max(math.prod(weight.shape[1:]), 1)).mul_(0.7)
    above = sum_per_filter(excess.sub_(threshold).clamp_(min=0))  # in place: every further tensor is one to fetch
    kept = excess.gt_(0)
    count = sum_per_filter(kept)
    kept.mul_(torch.sign(weight))
    above.addcmul_(threshold, count)
    count.clamp_(min=1)  # a filter of zeros becomes zeros, not NaN
    return above.div_(count), count


class _Ternarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, spent: bool) -> Tensor:
        ctx.spent = spent
        made, scale, count = _by_filter(weight.to(torch.float32), _values_of)
        ternary = made.to(weight.dtype)
        ctx.save_for_backward(ternary, scale, count)
        return ternary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ternary, scale, count = ctx.saved_tensors
        return through_scale(grad, ternary, scale, count, torch.sign, ctx.spent), None
