"""What a quantised tensor is to an integer engine: codes, a scale, and whether that says everything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: Smallest scale of a folded layer: engines refuse 0, and half-precision paths lose anything much smaller.
MIN_SCALE = 2.0**-23


@dataclass(frozen=True)
class QParams:
    """An affine grid: ``(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``.

    Attributes:
        scale: one number, or float32 ``[channels]`` along ``axis``.
        zero_point: one integer, or int32 ``[channels]``.
        qmin: smallest integer.
        qmax: largest integer.
        axis: the dimension of ``x`` with a scale of its own per entry; None for one scale.
    """

    scale: float | Tensor
    zero_point: int | Tensor
    qmin: int
    qmax: int
    axis: int | None = None


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers: ``(values - zero_point) * scale`` along ``axis`` is what the layer multiplies with.

    Attributes:
        values: int32, the weight's shape.
        scale: float32, ``[1]`` or ``[channels]``.
        bits: signed bits that the values need; above 8 they do not fit INT8.
        exact: the product equals the fake-quantised weight bit for bit.
        max_abs_error: largest deviation from it where it does not.
        why: one sentence for the report.
        zero_point: int32 in the shape of ``scale``; None is 0 everywhere.
        axis: of ``scale``, 0 for output channels.
    """

    values: Tensor
    scale: Tensor
    bits: int
    exact: bool = True
    max_abs_error: float = 0.0
    why: str = ""
    zero_point: Tensor | None = None
    axis: int = 0

    def dequantize(self) -> Tensor:
        """The float32 weight that these integers stand for."""
        plain = self.centred()
        return plain.values.to(torch.float32) * along(plain.scale, plain.values.dim(), plain.axis)

    def centred(self) -> IntegerWeight:
        """The same weight with zero point 0, which may take one more bit."""
        if self.zero_point is None:
            return self
        if not bool(self.zero_point.any()):
            return replace(self, zero_point=None)
        values = self.values - along(self.zero_point, self.values.dim(), self.axis)
        return replace(self, values=values, zero_point=None, bits=self.bits + 1)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """``values * scale`` in float32, ``scale`` along axis 0."""
    return values.to(torch.float32) * along_first(scale, values.dim())


def along_first(scale: Tensor, dims: int) -> Tensor:
    """A ``[n]`` vector shaped to broadcast along axis 0 of a tensor with ``dims`` dimensions."""
    return along(scale, dims, 0)


def along(vector: Tensor, dims: int, axis: int) -> Tensor:
    """A ``[n]`` vector shaped to broadcast along ``axis`` of a tensor with ``dims`` dimensions."""
    shape = [1] * dims
    if dims:
        shape[axis] = -1
    return vector.reshape(shape)


def storage_dtype(bits: int) -> torch.dtype:
    """The narrowest signed integer type that holds ``bits`` bits."""
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
