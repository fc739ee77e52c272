"""Layers after folding: integer weights, one scale per output channel, a float bias."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcomp.quantization.integers import IntegerWeight, along, storage_dtype
from mcomp.quantization.kept_weight import KeptWeight
from mcomp.quantization.layers import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantizedLayer,
    QuantLinear,
    conv_transpose,
    convolve,
    linear,
    twin,
)
from mcomp.quantization.quantizers.base import Quantizer


class FoldedLayer(KeptWeight):
    """What the three folded layers share.

    Attributes:
        weight_int: integer codes in the weight's shape; int8 where they need at most 8 bits.
        weight_scale: float32, one per entry of ``channel_axis``.
        channel_axis: where the weight has its output channels.
        bits: signed bits that the codes need.
        weight_buffers: names of buffers that count as parameters of the model.
    """

    weight_buffers: ClassVar[tuple[str, ...]] = ("weight_int",)
    channel_axis: ClassVar[int] = 0

    weight_int: Tensor
    weight_scale: Tensor
    bias: Any  # nn.Parameter or None
    bits: int
    input_quantizer: Quantizer | None
    input_scale: nn.Module | None

    def _become_integer(self, shape: torch.Size, bits: int, bias: bool, dtype: torch.dtype) -> None:
        outputs = shape[self.channel_axis]
        biases = outputs * (getattr(self, "groups", 1) if self.channel_axis else 1)
        self.bits = bits
        self.register_parameter("weight", None)
        zeros = torch.zeros(biases, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(zeros, requires_grad=False) if bias else None)
        self.register_buffer("weight_int", torch.zeros(shape, dtype=storage_dtype(bits)))
        self.register_buffer("weight_scale", torch.ones(outputs))

    def dequantized_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight in the type of what the layer reads, computed once and kept until the integers or scales change.

        Computed in float32 (float64 for float64).
        """
        values, scale = self.weight_int, self.weight_scale
        if values.is_inference() or scale.is_inference():
            return self._dequantize(dtype)
        key = (values.data_ptr(), values._version, scale.data_ptr(), scale._version, values.device, dtype)
        return self.kept_weight(key, lambda: self._dequantize(dtype))

    def integer_weight(self) -> IntegerWeight:
        """The integers and scales, as the layer holds them."""
        why = f"{self.bits}-bit integers, batch norm in the scale"
        scale, axis = self.weight_scale.detach().clone(), self.channel_axis
        return IntegerWeight(self.weight_int.to(torch.int32), scale, self.bits, why=why, axis=axis)

    def _dequantize(self, dtype: torch.dtype) -> Tensor:
        values = self.weight_int
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        scale = along(self.weight_scale.to(kind), values.dim(), self.channel_axis)
        return (values.to(kind) * scale).to(dtype)


class _FoldedConv(FoldedLayer):
    """A convolution over integers; the float32 result equals that of an integer engine before rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the dequantised weight."""
        return convolve(self, input, self.dequantized_weight(input.dtype))


class FoldedQuantConv1d(_FoldedConv, nn.Conv1d):
    """:class:`QuantConv1d` over integers."""


class FoldedQuantConv2d(_FoldedConv, nn.Conv2d):
    """:class:`QuantConv2d` over integers."""


class FoldedQuantConv3d(_FoldedConv, nn.Conv3d):
    """:class:`QuantConv3d` over integers."""


class _FoldedConvTranspose(FoldedLayer):
    channel_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution with the dequantised weight."""
        read = input if self.input_quantizer is None else self.input_quantizer(input)
        return conv_transpose(self, read, self.dequantized_weight(read.dtype), output_size)


class FoldedQuantConvTranspose1d(_FoldedConvTranspose, nn.ConvTranspose1d):
    """:class:`QuantConvTranspose1d` over integers."""


class FoldedQuantConvTranspose2d(_FoldedConvTranspose, nn.ConvTranspose2d):
    """:class:`QuantConvTranspose2d` over integers."""


class FoldedQuantConvTranspose3d(_FoldedConvTranspose, nn.ConvTranspose3d):
    """:class:`QuantConvTranspose3d` over integers."""


class FoldedQuantLinear(FoldedLayer, nn.Linear):
    """A matrix product over integers."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the dequantised weight."""
        return linear(self, input, self.dequantized_weight(input.dtype))


FOLDED: dict[type[nn.Module], type[FoldedLayer]] = {
    QuantConv1d: FoldedQuantConv1d,
    QuantConv2d: FoldedQuantConv2d,
    QuantConv3d: FoldedQuantConv3d,
    QuantConvTranspose1d: FoldedQuantConvTranspose1d,
    QuantConvTranspose2d: FoldedQuantConvTranspose2d,
    QuantConvTranspose3d: FoldedQuantConvTranspose3d,
    QuantLinear: FoldedQuantLinear,
}


def folded_like(layer: QuantizedLayer, bias: bool) -> FoldedLayer:
    """An empty folded layer in the place of ``layer``, on its device."""
    made = twin(layer, FOLDED[type(layer)])
    del made._modules["weight_quantizer"]  # it has done its work
    made._become_integer(layer.weight.shape, layer.weight_quantizer.integer_bits, bias, layer.weight.dtype)
    return made.to(layer.weight.device).train(layer.training)
