"""The arithmetic of folding, in float64: into float weights, and into the scales of integer ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.folded import FoldedLayer, folded_like
from mcomp.quantization.integers import MIN_SCALE, along, along_first
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.quantizers.batch_norm_folded import BatchNormFoldedWeight

BatchNorm = nn.modules.batchnorm._BatchNorm


def fold_behind(layer: nn.Module, norm: BatchNorm, name: str) -> None:
    """Fold the batch norm behind a float convolution or linear layer into it, in place."""
    factor, shift = affine(norm, name)
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # [in, out / groups, ...], groups along the inputs
            rows = weight.double().reshape(layer.groups, -1, *weight.shape[1:])
            per_output = factor.view(layer.groups, 1, -1, *([1] * (weight.dim() - 2)))
            weight.copy_((rows * per_output).flatten(0, 1))
        else:
            weight.copy_(weight.double() * along_first(factor, weight.dim()))
    _set_bias(layer, _bias(layer, factor) * factor + shift)


def fold_in_front(layer: nn.Module, norm: BatchNorm, name: str) -> None:
    """Fold the batch norm in front of a float convolution (without zero padding) or linear layer into it, in place."""
    factor, shift = affine(norm, name)
    weight = layer.get_parameter("weight")
    groups = layer.groups if isinstance(layer, nn.modules.conv._ConvNd) else 1
    grouped = (
        weight.detach().double().reshape(groups, -1, *weight.shape[1:])
    )  # [groups, out / groups, in / groups, ...]
    shape = (groups, 1, -1, *([1] * (weight.dim() - 2)))
    moved = (grouped * shift.view(shape)).flatten(2).sum(2).flatten()
    with torch.no_grad():
        weight.copy_((grouped * factor.view(shape)).flatten(0, 1))
    _set_bias(layer, _bias(layer, moved) + moved)


def materialise(layer: QuantizedLayer, norm: BatchNorm | None, name: str) -> tuple[FoldedLayer, int, int]:
    """A folded layer with the integers of ``layer``, the batch norm in its scales and bias.

    Returns:
        The layer, how many output channels changed sign, and how many were rounded to the smallest scale.
    """
    integer = layer.integer_weight().centred()
    values = integer.values.double()
    axis, dims = layer.channel_axis, values.dim()
    scale = integer.scale.double().expand(values.shape[axis])
    made = folded_like(layer, bias=norm is not None or layer.bias is not None)
    bias = _bias(layer, scale)
    flips = 0
    quantizer = layer.weight_quantizer
    if norm is not None:
        factor, shift = affine(norm, name)
        bias = bias * factor + shift
        negative = factor < 0
        flips = int(negative.sum())
        values = torch.where(along(negative, dims, axis), -values, values)
        scale = scale * factor.abs()
        if isinstance(quantizer, BatchNormFoldedWeight) and quantizer.fixed_point:
            scale = scale.log2().round().exp2()  # what it was before the factor was divided out in float32
    dead = scale == 0  # gamma 0: the channel is its bias
    coarse = (scale < MIN_SCALE) & ~dead
    shrink = along(torch.where(coarse, scale / MIN_SCALE, torch.where(dead, 0.0, 1.0)), dims, axis)
    values = (values * shrink).round()
    scale = torch.where(dead, 1.0, scale.clamp(min=MIN_SCALE))
    with torch.no_grad():
        made.weight_int.copy_(values)
        made.weight_scale.copy_(scale)
        if made.bias is not None:
            made.bias.copy_(bias)
    return made, flips, int(coarse.sum())


def affine(norm: BatchNorm, name: str) -> tuple[Tensor, Tensor]:
    """The batch norm of eval mode as ``x * factor + shift`` per channel, float64.

    Raises:
        StageError: its statistics or parameters hold inf or nan.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    if not bool(torch.isfinite(factor).all() and torch.isfinite(shift).all()):
        raise StageError(
            f"the batch norm behind or before `{name}` holds inf or nan",
            code="MC425",
            why="training diverged, or a running variance is negative",
            hint="start from an earlier checkpoint, or train with a lower `lr`",
        )
    return factor, shift


def _bias(layer: nn.Module, like: Tensor) -> Tensor:
    bias = layer._parameters.get("bias")
    return torch.zeros_like(like, dtype=torch.float64) if bias is None else bias.detach().double()


def _set_bias(layer: nn.Module, value: Tensor) -> None:
    weight = layer.get_parameter("weight")
    layer.register_parameter("bias", nn.Parameter(value.to(weight.dtype), requires_grad=weight.requires_grad))
