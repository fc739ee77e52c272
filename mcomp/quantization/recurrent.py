"""Recurrent layers with quantised weights.

The input and every weight matrix are quantised; the hidden state, the gates and the cell stay float, as integer
runtimes keep them between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mcomp.quantization.by_hand import Written
from mcomp.quantization.kept_weight import QuantizedParameter
from mcomp.quantization.layers import twin
from mcomp.quantization.quantizers.base import Quantizer


class _Recurrent(nn.Module):
    """Keywords of a layer that is written by hand, as for :class:`~mcomp.quantization.layers.QuantizedLayer`."""

    weights: nn.ModuleDict
    input_quantizer: Quantizer | None

    def __init__(
        self,
        *args: Any,
        scheme: str = "dorefa",
        a_scheme: str | None = None,
        w_bits: int | None = None,
        a_bits: int | None = None,
        signed_input: bool = True,
        levels: int = 255,
        per_channel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        written, rest = Written.of(type(self), (scheme, a_scheme), (w_bits, a_bits), levels, per_channel, kwargs)
        super().__init__(*args, **rest)
        _read_through(self, written.weight, written.activation(not signed_input))


class QuantizedRecurrent(_Recurrent):
    """Base: ``weights`` holds one :class:`QuantizedParameter` per matrix, ``input_quantizer`` one or None."""

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


class QuantizedCell(_Recurrent):
    """Base of cells, one step of a recurrent layer each; attributes as of :class:`QuantizedRecurrent`."""

    hidden_size: int

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """One step with quantised matrices."""
        x = input if self.input_quantizer is None else self.input_quantizer(input)
        single = x.dim() == 1
        x = x.unsqueeze(0) if single else x
        if hx is None:
            start = torch.zeros(x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
            hx = (start, start) if isinstance(self, nn.LSTMCell) else start
        elif single:
            hx = tuple(each.unsqueeze(0) for each in hx) if isinstance(hx, tuple) else hx.unsqueeze(0)
        of: Any = self
        matrices = [self.weights[name](getattr(self, name)) for name in ("weight_ih", "weight_hh")]
        made = self._step()(x, hx, *matrices, of.bias_ih, of.bias_hh)
        if not single:
            return made
        return tuple(each.squeeze(0) for each in made) if isinstance(made, tuple) else made.squeeze(0)

    def _step(self) -> Any:
        raise NotImplementedError


class QuantRNNCell(QuantizedCell, nn.RNNCell):
    """``nn.RNNCell`` with quantised weights."""

    def _step(self) -> Any:
        return torch.rnn_tanh_cell if self.nonlinearity == "tanh" else torch.rnn_relu_cell


class QuantLSTMCell(QuantizedCell, nn.LSTMCell):
    """``nn.LSTMCell`` with quantised weights."""

    def _step(self) -> Any:
        return torch.lstm_cell


class QuantGRUCell(QuantizedCell, nn.GRUCell):
    """``nn.GRUCell`` with quantised weights."""

    def _step(self) -> Any:
        return torch.gru_cell


QUANTIZED_RECURRENT: dict[type[nn.Module], type[QuantizedRecurrent | QuantizedCell]] = {
    nn.RNN: QuantRNN,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
    nn.RNNCell: QuantRNNCell,
    nn.LSTMCell: QuantLSTMCell,
    nn.GRUCell: QuantGRUCell,
}


def quantized_recurrent(
    layer: nn.RNNBase | nn.RNNCellBase, make_weight: Callable[[], Quantizer], input_quantizer: Quantizer | None = None
) -> QuantizedRecurrent | QuantizedCell:
    """A quantised recurrent layer that shares the parameters of ``layer``."""
    made = twin(layer, QUANTIZED_RECURRENT[type(layer)])
    _read_through(made, make_weight, input_quantizer)
    for name, read in made.weights.items():
        assert isinstance(read, QuantizedParameter)
        read.initialise(getattr(layer, name))
    return made


def _read_through(layer: _Recurrent, make_weight: Callable[[], Quantizer], input_quantizer: Quantizer | None) -> None:
    """Give ``layer`` a quantiser per matrix and one of its input."""
    layer.weights = nn.ModuleDict()
    for name, weight in list(layer.named_parameters()):
        if name.startswith("weight_"):
            read = QuantizedParameter(make_weight(), name, f"weights.{name}").to(weight.device)
            layer.weights[name] = read.train(layer.training)
    layer.register_module("input_quantizer", input_quantizer)
