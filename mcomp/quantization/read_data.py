"""A convolution that reads quantised data, whose learned scale is all that wants a gradient of what is read.

The image of a network needs no gradient, the step size that it is quantised with does. That is a single number: the
product of the input's gradient with the slope ``dy/ds``. A convolution is linear in its input and in its weight, so it
is the product of the weight with the gradient that the weight would have, had the convolution read the slope; which
takes a fraction of the time that the gradient of a large image of three channels takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.quantization.pieces import at_hand

_SLOPE = "slope_of_data"
_TINY = torch.finfo(torch.float32).tiny


def mark_data(y: Tensor, slope: Tensor) -> None:
    """Note at ``y``, whose own input needs no gradient, a multiple of what it changes by when its scale does."""
    setattr(y, _SLOPE, slope)


def reads_data(layer: Any, x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolve_data` serves: a plain convolution in float32 of marked data."""
    plain = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.padding_mode == "zeros"
    if not plain or isinstance(layer.padding, str) or not (hasattr(x, _SLOPE) and at_hand(x)):
        return False
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return bool(x.dtype == weight.dtype == torch.float32 and x.dim() == weight.dim())


def convolve_data(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of ``layer`` with ``weight``.

    ``x`` gets the part of its gradient that lies along the slope: nothing in front of it asks for more.
    """
    made: Tensor = _ConvolveData.apply(x, weight, layer.bias, getattr(x, _SLOPE), layer)
    return made


class _ConvolveData(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: Tensor, layer: Any) -> Tensor:
        ctx.save_for_backward(x, weight, slope)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.options = (layer.stride, layer.padding, layer.dilation, False, [0] * len(layer.stride), layer.groups)
        made: Tensor = layer._conv_forward(x, weight, bias)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, slope = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        gradient = torch.ops.aten.convolution_backward.default
        _, found, summed = gradient(grad, x, weight, ctx.bias_sizes, *ctx.options, [False, of_weight, of_bias])
        passed = None
        if of_input:
            _, along, _ = gradient(grad, slope, weight, None, *ctx.options, [False, True, False])
            passed = slope * (torch.sum(along * weight) / slope.square().sum().clamp(min=_TINY))
        return passed, found, summed, None, None
