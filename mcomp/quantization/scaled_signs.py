"""The gradient that binary and ternary weights share: one scale per filter, which follows the weights it is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mcomp.quantization.integers import along_first
from mcomp.quantization.pieces import at_hand, gradient_buffer, rows

#: Dividing a weight by its filter's scale is safe above; its square times a gradient stays a normal float.
_SMALL = 1e-18


def through_scale(
    grad: Tensor,
    quantised: Tensor,
    scale: Tensor,
    count: Tensor,
    signs: Callable[[Tensor], Tensor],
    spent: bool,
) -> Tensor:
    """``a * g + T / count * sum(g * T)`` per filter, for the weight ``a * T``.

    Args:
        grad: upstream, ``[filters, ...]``.
        quantised: ``a * T``, which the layer that multiplies with it keeps anyway.
        scale: ``a``, float32 ``[filters]``.
        count: how many weights ``a`` is the mean of, float32 ``[filters]``.
        signs: ``T`` of a quantised weight, for filters whose scale is too small to divide by.
        spent: whether ``grad`` may be written over.
    """
    grad, passed = gradient_buffer(grad, quantised, quantised.dtype, spent)
    divides = at_hand(scale) and quantised.dtype == torch.float32 and bool((scale > _SMALL).all())
    share = 1 / (scale.square() * count if divides else count)
    along = (along_first(each, quantised.dim()) for each in (scale, share))
    for own, upstream, target, a, part in rows(quantised, grad, passed, *along):  # while they are in the cache
        g = upstream.float()
        codes = own if divides else signs(own.float())
        pull = sum_per_filter(g * codes).mul_(part)
        made = target if target.dtype == g.dtype else torch.empty_like(g)
        torch.mul(g, a, out=made).addcmul_(codes, pull)
        if made is not target:
            target.copy_(made)
    return passed


def sum_per_filter(x: Tensor) -> Tensor:
    """Sums of ``[filters, ...]``, with as many dimensions."""
    return x.sum(tuple(range(1, x.dim())), keepdim=True) if x.dim() > 1 else x.clone()
