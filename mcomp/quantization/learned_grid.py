"""The sums that gradients of learned ranges are made of, and the gradient of the input, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.quantization.fake_quantize import Inside, pass_inside, snap
from mcomp.quantization.pieces import arithmetic_dtype, gradient_buffer, laid_out_like, matching

#: On a grid of fewer levels, a sum of ``g * y`` less one of ``g * x`` is as good as one of ``g * (y - x)``, and takes
#: a pass less: what float32 loses is far below the rounding that is summed.
_COARSE = 1 << 9


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
    coarse = grid.high - grid.low < _COARSE
    values, bounds, outside = list[Tensor](), list[Tensor](), list[Tensor]()
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
