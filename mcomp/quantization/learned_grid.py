"""The sums that gradients of learned ranges are made of, and the gradient of the input, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.quantization.fake_quantize import Inside, snap
from mcomp.quantization.pieces import arithmetic_dtype, gradient_buffer, laid_out_like, matching


@dataclass
class Grid:
    """``clamp(round(x / scale), low, high) * scale``, and the exclusive limits of the ``x`` that count as inside.

    ``spent`` says that the upstream gradient is read by nothing else.
    """

    scale: Tensor
    low: int
    high: int
    inside: Inside
    spent: bool = False


@dataclass
class GridGradients:
    """Upstream gradient ``g`` of the quantised tensor ``y`` of ``x``; sums in float32 (float64 for float64), 0-d.

    Attributes:
        x: ``g`` where ``x`` is inside, else 0; like ``x``.
        value: the sum of ``g * (y - x)`` inside, what rounding added, and of ``g * y`` outside, where ``y`` is a bound.
        bound: the sum of ``g * y`` outside alone.
        outside: the sum of ``g`` outside.
    """

    x: Tensor
    value: Tensor
    bound: Tensor
    outside: Tensor


def quantised(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """The quantised tensor, and what of it the backward pass should keep: nothing where it was rounded once more."""
    made = snap(x, grid.scale, grid.low, grid.high)
    return made, made if x.dtype == arithmetic_dtype(x) else None


def grid_gradients(
    grad: Tensor, x: Tensor, y: Tensor | None, grid: Grid, *, of_scale: bool, of_ends: bool
) -> GridGradients:
    """Everything that the backward pass of a learned grid needs.

    Args:
        grad: upstream.
        x: input of the quantiser.
        y: from :func:`quantised`.
        grid: what ``x`` was quantised to.
        of_scale: whether ``value`` is wanted; else it is 0.
        of_ends: whether ``bound`` and ``outside`` are.
    """
    kind = arithmetic_dtype(x)
    grad, passed = gradient_buffer(grad, x, x.dtype, grid.spent and not of_ends)
    value, bound, outside = torch.zeros(3, dtype=kind, device=x.device).unbind()
    for source, upstream, target, result in matching(x, grad, passed, x if y is None else laid_out_like(y, x)):
        own, g = source.to(kind), upstream.to(kind).reshape(-1)
        level = result if y is not None else snap(own, grid.scale, grid.low, grid.high)
        if of_scale:  # first: `target` may be `upstream`
            off = torch.ops.aten.hardtanh_backward(own, own, *grid.inside)  # x itself where it is inside, else 0
            value = value + torch.dot(g, torch.sub(level, off, out=off).reshape(-1))
        if of_ends and passed is grad:
            g = g.clone()
        torch.ops.aten.hardtanh_backward(upstream, source, *grid.inside, grad_input=target)
        if of_ends:
            stopped = g - target.to(kind).reshape(-1)
            bound, outside = bound + torch.dot(stopped, level.reshape(-1)), outside + stopped.sum()
    return GridGradients(passed, value, bound, outside)
