"""What a quantised tensor is to an integer engine: codes, a scale, and whether that says everything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Smallest scale of a folded layer: engines refuse 0, and half-precision paths lose anything much smaller.
MIN_SCALE = 2.0**-23


@dataclass(frozen=True)
class QParams:
    """A per-tensor affine grid: ``(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers: ``values * scale`` along axis 0 is what the layer multiplies with.

    Attributes:
        values: int32, the weight's shape.
        scale: float32, ``[1]`` or ``[out_channels]``.
        bits: signed bits that the values need; above 8 they do not fit INT8.
        exact: the product equals the fake-quantised weight bit for bit.
        max_abs_error: largest deviation from it where it does not.
        why: one sentence for the report.
    """

    values: Tensor
    scale: Tensor
    bits: int
    exact: bool = True
    max_abs_error: float = 0.0
    why: str = ""

    def dequantize(self) -> Tensor:
        """The float32 weight that these integers stand for."""
        return dequantize(self.values, self.scale)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """``values * scale`` in float32, ``scale`` along axis 0."""
    return values.to(torch.float32) * along_first(scale, values.dim())


def along_first(scale: Tensor, dims: int) -> Tensor:
    """A ``[n]`` vector shaped to broadcast along axis 0 of a tensor with ``dims`` dimensions."""
    return scale.reshape(-1, *([1] * (dims - 1)))


def storage_dtype(bits: int) -> torch.dtype:
    """The narrowest signed integer type that holds ``bits`` bits."""
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
