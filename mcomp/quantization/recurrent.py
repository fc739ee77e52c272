"""Recurrent layers with quantised weights.

The input and every weight matrix are quantised; the hidden state, the gates and the cell stay float, as integer
runtimes keep them between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from mcomp.quantization.kept_weight import QuantizedParameter
from mcomp.quantization.layers import twin
from mcomp.quantization.quantizers.base import Quantizer


class QuantizedRecurrent(nn.Module):
    """Base: ``weights`` holds one :class:`QuantizedParameter` per matrix, ``input_quantizer`` one or None."""

    weights: nn.ModuleDict
    input_quantizer: Quantizer | None

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The layer with its quantised matrices."""
        x = input
        if self.input_quantizer is not None:
            packed = isinstance(input, PackedSequence)
            data = self.input_quantizer(input.data if packed else input)
            x = PackedSequence(data, *input[1:]) if packed else data
        of: Any = self
        latent = of._flat_weights
        of._flat_weights = [
            self.weights[name](weight) if name in self.weights else weight
            for name, weight in zip(of._flat_weights_names, latent, strict=True)
        ]
        try:
            return super().forward(x, hx)
        finally:
            of._flat_weights = latent


class QuantRNN(QuantizedRecurrent, nn.RNN):
    """``nn.RNN`` with quantised weights."""


class QuantLSTM(QuantizedRecurrent, nn.LSTM):
    """``nn.LSTM`` with quantised weights, the projection's included."""


class QuantGRU(QuantizedRecurrent, nn.GRU):
    """``nn.GRU`` with quantised weights."""


QUANTIZED_RECURRENT: dict[type[nn.Module], type[QuantizedRecurrent]] = {
    nn.RNN: QuantRNN,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
}


def quantized_recurrent(
    layer: nn.RNNBase, make_weight: Callable[[], Quantizer], input_quantizer: Quantizer | None = None
) -> QuantizedRecurrent:
    """A quantised recurrent layer that shares the parameters of ``layer``."""
    made = twin(layer, QUANTIZED_RECURRENT[type(layer)])
    made.weights = nn.ModuleDict()
    for name, weight in layer.named_parameters():
        if name.startswith("weight_"):
            read = QuantizedParameter(make_weight(), name, f"weights.{name}").train(layer.training)
            read.initialise(weight)
            made.weights[name] = read
    made.register_module("input_quantizer", input_quantizer)
    return made
