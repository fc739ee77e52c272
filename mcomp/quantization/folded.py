"""Layers after folding: integer weights, one scale per output channel, a float bias."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.integers import IntegerWeight, dequantize, storage_dtype
from mcomp.quantization.kept_weight import KeptWeight
from mcomp.quantization.layers import QuantConv1d, QuantConv2d, QuantizedLayer, QuantLinear, constructor_arguments


class FoldedLayer(KeptWeight):
    """What the three folded layers share.

    Attributes:
        weight_int: integer codes in the weight's shape; int8 where they need at most 8 bits.
        weight_scale: float32 ``[out_channels]``.
        bits: signed bits that the codes need.
        weight_buffers: names of buffers that count as parameters of the model.
    """

    weight_buffers: ClassVar[tuple[str, ...]] = ("weight_int",)

    weight_int: Tensor
    weight_scale: Tensor
    bias: Any  # nn.Parameter or None
    bits: int

    def _become_integer(self, shape: torch.Size, bits: int, bias: bool) -> None:
        self.bits = bits
        self.register_parameter("weight", None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape[0]), requires_grad=False) if bias else None)
        self.register_buffer("weight_int", torch.zeros(shape, dtype=storage_dtype(bits)))
        self.register_buffer("weight_scale", torch.ones(shape[0]))

    def dequantized_weight(self) -> Tensor:
        """The float32 weight, computed once and kept until the integers or scales change."""
        values, scale = self.weight_int, self.weight_scale
        if values.is_inference() or scale.is_inference():
            return dequantize(values, scale)
        key = (values.data_ptr(), values._version, scale.data_ptr(), scale._version, values.device)
        return self.kept_weight(key, lambda: dequantize(values, scale))

    def integer_weight(self) -> IntegerWeight:
        """The integers and scales, as the layer holds them."""
        why = f"{self.bits}-bit integers, batch norm in the scale"
        return IntegerWeight(self.weight_int.to(torch.int32), self.weight_scale.detach().clone(), self.bits, why=why)


class FoldedQuantConv1d(FoldedLayer, nn.Conv1d):
    """A convolution over integers; the float32 result equals that of an integer engine before rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the dequantised weight."""
        output: Tensor = self._conv_forward(input, self.dequantized_weight(), self.bias)
        return output


class FoldedQuantConv2d(FoldedLayer, nn.Conv2d):
    """A convolution over integers; the float32 result equals that of an integer engine before rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the dequantised weight."""
        output: Tensor = self._conv_forward(input, self.dequantized_weight(), self.bias)
        return output


class FoldedQuantLinear(FoldedLayer, nn.Linear):
    """A matrix product over integers."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the dequantised weight."""
        return F.linear(input, self.dequantized_weight(), self.bias)


FOLDED: dict[type[nn.Module], type[FoldedLayer]] = {
    QuantConv1d: FoldedQuantConv1d,
    QuantConv2d: FoldedQuantConv2d,
    QuantLinear: FoldedQuantLinear,
}


def folded_like(layer: QuantizedLayer, bias: bool) -> FoldedLayer:
    """An empty folded layer in the place of ``layer``, on its device."""
    positional, keywords = constructor_arguments(layer)
    made = FOLDED[type(layer)](*positional, **{**keywords, "bias": False})
    made._become_integer(layer.weight.shape, layer.weight_quantizer.integer_bits, bias)
    return made.to(layer.weight.device).train(layer.training)
