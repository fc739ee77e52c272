"""Fake quantisation on a given grid, ``clamp(round(x / scale), low, high) * scale``, one pass each way.

Halves round to even. With an integer zero point ``z`` the same formula holds for the bounds ``qmin - z``
and ``qmax - z`` (Jacob et al., arXiv:1712.05877). The gradient is straight-through inside the clip range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcomp.quantization.pieces import arithmetic_dtype, elementwise, gradient_buffer, matching

Bound = int | Tensor
#: Exclusive limits of the inputs that get a gradient.
Inside = tuple[float, float]
#: The same where their values are not at hand; exact to the last bit of a limit.
Limits = tuple[float | Tensor, float | Tensor]


def snap(x: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
    """The quantised tensor, in the type and memory format of ``x``; computed in float32 (float64 for float64).

    Args:
        x: any shape.
        scale: broadcasts against ``x``.
        low: smallest level that is kept, less the zero point; a whole number, or a tensor of them.
        high: largest one.
    """

    def work(source: Tensor, result: Tensor) -> None:
        grid = torch.div(source, scale, out=result)
        _clamp(grid, low, high).round_().mul_(scale)  # bounds are whole: clamping first gives the same level

    if scale.dim():  # one scale per channel: a piece of memory would not broadcast
        kind = arithmetic_dtype(x)
        return _clamp(torch.div(x.to(kind), scale), low, high).round_().mul_(scale).to(x.dtype)
    return elementwise(x, work)


def fake_quantize(x: Tensor, scale: Tensor, low: Bound, high: Bound, inside: Inside | None = None) -> Tensor:
    """:func:`snap` with the straight-through gradient: ``g`` inside the clip range, its ends included, 0 outside.

    Args:
        x: any shape.
        scale: 0-d, or shaped to broadcast.
        low: as for :func:`snap`.
        high: as for :func:`snap`.
        inside: from :func:`inside_bounds`, for tensors on the CPU. The backward pass then reads ``x`` itself, which
            the operation that made it mostly keeps anyway; otherwise one mask is kept, a byte per element.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return snap(x, scale, low, high)
    usable = inside is not None and x.device.type == "cpu" and x.dtype != torch.float64
    quantised: Tensor = _FakeQuantize.apply(x, scale, low, high, inside if usable else None)
    return quantised


def relu_fake_quantize(x: Tensor, scale: Tensor, high: int) -> Tensor:
    """``fake_quantize(relu(x), scale, 0, high)`` in one operation that keeps a byte per element and not ``relu(x)``.

    The gradient is ``g`` where ``0 < x <= high * scale``, else 0.

    Args:
        x: any shape.
        scale: 0-d.
        high: the largest level.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return snap(x, scale, 0, high)
    quantised: Tensor = _ReLUFakeQuantize.apply(x, scale, high)
    return quantised


def straight_through(x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """``make(x)``, with the gradient of the identity: for quantisers that clip nothing."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return make(x)
    quantised: Tensor = _StraightThrough.apply(x, make)
    return quantised


def pass_inside(grad: Tensor, x: Tensor, inside: Limits, out: Tensor | None = None) -> Tensor:
    """``grad`` where ``inside[0] < x < inside[1]``, else 0; written to ``out``, which may be ``grad``, where given."""
    passed: Tensor
    if any(isinstance(limit, Tensor) for limit in inside):
        wide = x.to(arithmetic_dtype(x))
        passed = torch.where((wide > inside[0]) & (wide < inside[1]), grad, 0.0)
        return passed if out is None else out.copy_(passed)
    if out is None:
        passed = torch.ops.aten.hardtanh_backward.default(grad, x, *inside)
    else:
        passed = torch.ops.aten.hardtanh_backward.grad_input(grad, x, *inside, grad_input=out)
    return passed


def masked(grad: Tensor, mask: Tensor, *, spent: bool = False) -> Tensor:
    """``grad`` where ``mask`` (bool) holds, else 0; written over ``grad`` where that is ``spent``."""
    grad, passed = gradient_buffer(grad, mask, grad.dtype, spent)
    for upstream, kept, target in matching(grad, mask.view(torch.uint8), passed):
        # multiplying with the bytes themselves takes twice as long
        if passed is grad:
            target.mul_(kept.to(grad.dtype))
        else:
            target.copy_(kept).mul_(upstream)
    return passed


def inside_bounds(scale: float, low: float, high: float, *, closed: bool = True) -> Inside:
    """The floats just outside (``closed``) or on the ends of ``low <= x / scale <= high``, division in float32.

    Dividing is monotone, so two comparisons of ``x`` with these decide as the quotient would.
    """
    return -_first_above(scale, -low, closed), _first_above(scale, high, closed)


def _first_above(scale: float, level: float, closed: bool) -> float:
    """The smallest float32 whose quotient by ``scale`` is above ``level``, or (not ``closed``) at least ``level``."""
    up, down = np.float32(np.inf), np.float32(-np.inf)
    step = np.float32(scale)
    if not np.isfinite(step):
        return abs(float(step))  # nan stays nan; everything is inside of inf
    if level == 0:
        return float(np.nextafter(np.float32(0), up)) if closed else 0.0

    def above(x: np.float32) -> bool:
        return bool(x / step > level if closed else x / step >= level)

    with np.errstate(over="ignore"):
        x = np.float32(np.float64(level) * np.float64(step))
        while not above(x):
            x = np.nextafter(x, up)
        while np.isfinite(x) and above(np.nextafter(x, down)):
            x = np.nextafter(x, down)
    return float(x)


def _clamp(grid: Tensor, low: Bound, high: Bound) -> Tensor:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(grid, torch.as_tensor(low).to(grid), torch.as_tensor(high).to(grid), out=grid)
    return grid.clamp_(low, high)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        return make(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


class _ReLUFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, high: int) -> Tensor:
        quantised, mask = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)
        kind = arithmetic_dtype(x)
        above = torch.finfo(kind).tiny  # ReLU passes no gradient at 0; this rounds to 0 all the same
        for source, target, inside in matching(x, quantised, mask):
            grid = torch.div(source.to(kind), scale)
            level = torch.clamp(grid, above, high, out=target if x.dtype == kind else None)
            inside.copy_(grid.eq_(level))
            level.round_().mul_(scale)
            if level is not target:
                target.copy_(level)
        ctx.save_for_backward(mask)
        return quantised

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return masked(grad, mask), None, None


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Bound, high: Bound, inside: Inside | None) -> Tensor:
        ctx.inside = inside
        if inside is not None:
            ctx.save_for_backward(x)
            return snap(x, scale, low, high)
        grid = torch.div(x.to(arithmetic_dtype(x)), scale)
        clamped = _clamp(grid.clone(), low, high)
        # equal in place, then to bytes: the comparison that makes bools directly is three times slower
        ctx.save_for_backward(grid.eq_(clamped).to(torch.uint8))
        return clamped.round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        if ctx.inside is not None:
            return pass_inside(grad, saved, ctx.inside), None, None, None, None
        return saved.to(grad.dtype).mul_(grad), None, None, None, None
