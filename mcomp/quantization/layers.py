"""Layers whose weight is fake-quantised, in place of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Linear``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.kept_weight import KeptWeight
from mcomp.quantization.quantizers.base import Quantizer


class QuantizedLayer(KeptWeight):
    """What the three layers share: a latent float ``weight`` and the quantiser it is read through.

    In eval mode, where no gradient is asked for, the quantised weight is kept until the weight
    changes (seen by its version counter; ``train()`` drops it too, for edits through ``.data``).
    """

    weight: Any  # nn.Parameter; torch types it differently in convolutions and linear layers
    bias: Any
    weight_quantizer: Quantizer

    def quantized_weight(self) -> Tensor:
        """The weight that the layer multiplies with."""
        weight: Tensor = self.weight
        quantizer = self.weight_quantizer
        trains = weight.requires_grad or any(own.requires_grad for own in quantizer.parameters())
        if self.training or (torch.is_grad_enabled() and trains) or weight.is_inference():
            quantised: Tensor = quantizer(weight)
            return quantised
        key = (weight.data_ptr(), weight._version, weight.device, weight.dtype, *quantizer.state_key())
        return self.kept_weight(key, lambda: self.weight_quantizer(weight.detach()))

    def integer_weight(self) -> IntegerWeight:
        """The weight as integers; ``values * scale`` equals :meth:`quantized_weight` bit for bit.

        Raises:
            StageError: the weight holds inf or nan, or is not quantised (32 bits).
        """
        return self.weight_quantizer.integer(self.weight)


class QuantConv1d(QuantizedLayer, nn.Conv1d):
    """``nn.Conv1d`` with a quantised weight; every option of the original works."""

    def __init__(self, *args: Any, weight_quantizer: Quantizer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the quantised weight."""
        output: Tensor = self._conv_forward(input, self.quantized_weight(), self.bias)
        return output


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """``nn.Conv2d`` with a quantised weight; every option of the original works."""

    def __init__(self, *args: Any, weight_quantizer: Quantizer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the quantised weight."""
        output: Tensor = self._conv_forward(input, self.quantized_weight(), self.bias)
        return output


class QuantLinear(QuantizedLayer, nn.Linear):
    """``nn.Linear`` with a quantised weight."""

    def __init__(self, *args: Any, weight_quantizer: Quantizer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer

    def forward(self, input: Tensor) -> Tensor:
        """The product with the quantised weight."""
        return F.linear(input, self.quantized_weight(), self.bias)


QUANTIZED: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Linear: QuantLinear,
}


def constructor_arguments(layer: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that build a layer like this one, on the meta device."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features, layer.out_features), {"bias": layer.bias is not None, "device": "meta"}
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    keywords: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
        "device": "meta",  # no memory, and no draw from the random generator
    }
    return (layer.in_channels, layer.out_channels, layer.kernel_size), keywords


def quantized_like(layer: nn.Module, weight_quantizer: Quantizer) -> QuantizedLayer:
    """A quantised layer that shares the parameters of ``layer``."""
    positional, keywords = constructor_arguments(layer)
    made = QUANTIZED[type(layer)](*positional, weight_quantizer=weight_quantizer, **keywords)
    made._parameters["weight"] = layer._parameters["weight"]
    made._parameters["bias"] = layer._parameters["bias"]
    return made.train(layer.training)
