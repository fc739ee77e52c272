"""Ternary weights, after Li et al., "Ternary Weight Networks" (arXiv:1605.04711)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.integers import MIN_SCALE, along_first
from mcomp.quantization.pieces import rows
from mcomp.quantization.quantizers.weight import WeightQuantizer


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
        ternary: Tensor = _Ternarise.apply(x)
        return ternary

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-1, 0 and +1, and ``a`` per filter."""
        signs, scale, _ = _ternarise(x)
        alive = scale > 0
        return signs.mul_(along_first(alive.to(signs.dtype), x.dim())), torch.where(alive, scale, MIN_SCALE)

    def why(self) -> str:
        """What the integers are, for the report."""
        return "ternary: -1, 0 and +1, one scale per filter"


def _ternarise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kept signs like ``weight``, the scale and the number of those kept, ``[filters]``, float32."""
    weight = weight.to(torch.float32)
    magnitude = weight.abs()
    threshold = 0.7 * _per_filter(magnitude, torch.mean)
    signs = magnitude.gt_(along_first(threshold, weight.dim())).mul_(weight.sign())
    count = _per_filter(signs.abs(), torch.sum).clamp_(min=1)  # a filter of zeros becomes zeros, not NaN
    return signs, _per_filter(weight * signs, torch.sum) / count, count


def _per_filter(x: Tensor, reduce: Any) -> Tensor:
    reduced: Tensor = reduce(x, tuple(range(1, x.dim()))) if x.dim() > 1 else x.clone()
    return reduced


class _Ternarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ternary, codes = torch.empty_like(weight), torch.empty_like(weight, dtype=torch.int8)
        scales, counts = [], []
        for start, end in rows(weight):  # a few filters at a time, while they are in the cache
            signs, scale, count = _ternarise(weight[start:end])
            codes[start:end] = signs
            ternary[start:end] = signs.mul_(along_first(scale, weight.dim()))
            scales.append(scale)
            counts.append(count)
        ctx.save_for_backward(codes, torch.cat(scales), torch.cat(counts))
        return ternary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        codes, scales, counts = ctx.saved_tensors
        passed = torch.empty_like(codes, dtype=grad.dtype)
        for start, end in rows(passed):
            signs, upstream = codes[start:end].to(torch.float32), grad[start:end].float()
            pull = _per_filter(upstream * signs, torch.sum) / counts[start:end]  # through the scale
            direct = upstream * along_first(scales[start:end], grad.dim())
            passed[start:end] = direct.add_(signs.mul_(along_first(pull, grad.dim())))
        return passed
