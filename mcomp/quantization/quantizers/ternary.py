"""Ternary weights, after Li et al., "Ternary Weight Networks" (arXiv:1605.04711)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.integers import MIN_SCALE, along_first
from mcomp.quantization.pieces import rows
from mcomp.quantization.quantizers.weight import WeightQuantizer
from mcomp.quantization.scaled_signs import through_scale


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
        signs, scale, _ = _ternarise(x)
        alive = scale > 0
        return signs.mul_(along_first(alive.to(signs.dtype), x.dim())), torch.where(alive, scale, MIN_SCALE)

    def why(self) -> str:
        """What the integers are, for the report."""
        return "ternary: -1, 0 and +1, one scale per filter"


def _ternarise(weight: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Kept signs like ``weight``, the scale and the number of those kept, ``[filters]``, float32."""
    weight = weight.to(torch.float32)
    magnitude = torch.abs(weight, out=torch.empty_like(weight) if out is None else out)
    threshold = 0.7 * _per_filter(magnitude, torch.mean)
    kept = torch.gt(magnitude, along_first(threshold, weight.dim()), out=torch.empty_like(magnitude))
    count = _per_filter(kept, torch.sum).clamp_(min=1)  # a filter of zeros becomes zeros, not NaN
    scale = _per_filter(magnitude.mul_(kept), torch.sum) / count
    return torch.sign(weight, out=magnitude).mul_(kept), scale, count


def _per_filter(x: Tensor, reduce: Any) -> Tensor:
    reduced: Tensor = reduce(x, tuple(range(1, x.dim()))) if x.dim() > 1 else x.clone()
    return reduced


class _Ternarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, spent: bool) -> Tensor:
        ctx.spent = spent
        ternary = torch.empty_like(weight)
        scales, counts = [], []
        for start, end in rows(weight):  # a few filters at a time, while they are in the cache
            target = ternary[start:end]
            signs, scale, count = _ternarise(weight[start:end], target if weight.dtype == torch.float32 else None)
            signs.mul_(along_first(scale, weight.dim()))
            if signs is not target:
                target.copy_(signs)
            scales.append(scale)
            counts.append(count)
        ctx.save_for_backward(ternary, torch.cat(scales), torch.cat(counts))
        return ternary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ternary, scale, count = ctx.saved_tensors
        return through_scale(grad, ternary, scale, count, torch.sign, ctx.spent), None
