"""The sums that gradients of learned ranges are made of, and the gradient of the input, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.fake_quantize import Bound, Limits, pass_inside, snap
from mcomp.quantization.pieces import arithmetic_dtype, gradient_buffer, laid_out_like, matching

#: On a grid of fewer levels, a sum of ``g * y`` less one of ``g * x`` is as good as one of ``g * (y - x)``, and takes
#: a pass less: what float32 loses is far below the rounding that is summed.
_COARSE = 1 << 9


@dataclass
class Grid:
    """``clamp(round(x / scale), low, high) * scale``.

    Attributes:
        scale: 0-d.
        low: smallest level, less the zero point.
        high: largest one.
        levels: how many there are beside it.
        inside: exclusive limits of the ``x`` that count as inside.
        spent: whether the upstream gradient is read by nothing else.
    """

    scale: Tensor
    low: Bound
    high: Bound
    levels: int
    inside: Limits
    spent: bool = False


class OnLearnedGrid(torch.autograd.Function):
    """``x`` on a :class:`Grid`; a subclass says what the parameters behind the grid get.

    Called with ``x``, the grid, a factor for the gradients of the parameters, and these.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, gain: float, *parameters: Tensor) -> Tensor:
        """The quantised tensor."""
        made = snap(x, grid.scale, grid.low, grid.high)
        # the layer that reads the result keeps it too; a rounded one is made anew
        ctx.save_for_backward(x, made if x.dtype == arithmetic_dtype(x) else None)
        ctx.grid, ctx.gain = grid, gain
        return made


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


def grid_gradients(ctx: Any, grad: Tensor, *, of_scale: bool, of_ends: bool) -> GridGradients:
    """Everything that the backward pass of :class:`OnLearnedGrid` needs.

    Args:
        ctx: of the forward pass.
        grad: upstream.
        of_scale: whether ``value`` is wanted; else it is 0.
        of_ends: whether ``bound`` and ``outside`` are.
    """
    (x, y), grid = ctx.saved_tensors, ctx.grid
    kind = arithmetic_dtype(x)
    grad, passed = gradient_buffer(grad, x, x.dtype, grid.spent and not of_ends)
    coarse = grid.levels < _COARSE
    values: list[Tensor] = []
    bounds: list[Tensor] = []
    outside: list[Tensor] = []
    for source, upstream, target, result in matching(x, grad, passed, x if y is None else laid_out_like(y, x)):
        own, g = source.to(kind), upstream.to(kind)
        level = result if y is not None else snap(own, grid.scale, grid.low, grid.high)
        if of_scale and coarse:  # before `target` is written: that may be `upstream`
            values.append(_dot(g, level))
        elif of_scale:
            off = pass_inside(own, own, grid.inside)  # x itself where it is inside, else 0
            values.append(_dot(g, torch.sub(level, off, out=off)))
        if of_ends and passed is grad:
            g = g.clone()
        kept = pass_inside(upstream, source, grid.inside, out=target).to(kind)
        if of_scale and coarse:
            values[-1].sub_(_dot(kept, own))
        if of_ends:
            stopped = g - kept
            bounds.append(_dot(stopped, level))
            outside.append(stopped.sum())
    return GridGradients(passed, *(_total(each, x) for each in (values, bounds, outside)))


def _total(sums: list[Tensor], like: Tensor) -> Tensor:
    if len(sums) > 1:
        return torch.stack(sums).sum()
    return sums[0] if sums else torch.zeros((), dtype=arithmetic_dtype(like), device=like.device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
