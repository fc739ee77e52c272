"""The sums that gradients of learned ranges are made of, and the gradient of the input, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.quantization.fake_quantize import Inside
from mcomp.quantization.pieces import arithmetic_dtype, pieces


@dataclass
class GridGradients:
    """Upstream gradient ``g`` against a grid; ``r = x / scale``, ``c = clamp(r, low, high)``.

    Attributes:
        x: ``g`` where ``x`` is inside, else 0; like ``x``.
        rounding: the sum of ``g * (round(c) - c)``: what rounding added.
        clipped: the sum over all outside of ``g * c``: their level is the bound itself.
        outside: the sum over all outside of ``g``.
    """

    x: Tensor
    rounding: Tensor
    clipped: Tensor
    outside: Tensor


def grid_gradients(grad: Tensor, x: Tensor, scale: Tensor, low: float, high: float, inside: Inside) -> GridGradients:
    """Everything that the backward pass of a learned grid needs; 0-d sums in float32 (float64 for float64).

    Args:
        grad: upstream.
        x: input of the quantiser.
        scale: 0-d.
        low: level at the lower end.
        high: level at the upper end.
        inside: exclusive limits of the ``x`` that count as inside.
    """
    if grad.stride() != x.stride() or not grad.numel():  # pieces of both must cover the same elements
        grad = torch.empty_like(x, dtype=grad.dtype).copy_(grad)
    kind = arithmetic_dtype(x)
    passed = torch.empty_like(x)
    sums = torch.zeros(3, dtype=kind, device=x.device)
    for source, upstream, target in zip(pieces(x), pieces(grad), pieces(passed), strict=True):
        torch.ops.aten.hardtanh_backward(upstream, source, *inside, grad_input=target)
        g = upstream.to(kind).reshape(-1)
        level = torch.div(source.to(kind), scale).reshape(-1).clamp_(low, high)
        stopped = g - target.reshape(-1)
        rounding = level.round().sub_(level)
        sums += torch.stack([torch.dot(g, rounding), torch.dot(stopped, level), stopped.sum()])
    return GridGradients(passed, *sums.unbind())
