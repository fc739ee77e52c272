"""The gradient that binary and ternary weights share: one scale per filter, which follows the weights it is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mcomp.quantization.pieces import gradient_buffer, rows

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
    others = tuple(range(1, quantised.dim()))
    divides = scale.device.type == "cpu" and quantised.dtype == torch.float32 and bool((scale > _SMALL).all())
    shape = (-1, *[1] * (quantised.dim() - 1))
    for start, end in rows(quantised):  # a few filters at a time, while they are in the cache
        own, upstream = quantised[start:end], grad[start:end].float()
        a, n = scale[start:end], count[start:end]
        codes = own if divides else signs(own.float())
        pull = (upstream * codes).sum(others) if others else upstream * codes
        pull = pull / (a.square() * n) if divides else pull / n
        target = passed[start:end] if passed.dtype == torch.float32 else torch.empty_like(upstream)
        torch.mul(upstream, a.view(shape), out=target).addcmul_(codes, pull.view(shape))
        if target.dtype != passed.dtype:
            passed[start:end] = target
    return passed
