"""A copy of a model in operations that every exporter of torch knows, quantisers as divide, round, clamp, multiply."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mcomp.deploy.integer_form import ActivationSite
from mcomp.deploy.marking import Marker, mark
from mcomp.quantization.layers import twin
from mcomp.quantization.recurrent import QuantizedRecurrent


class PlainQuantizer(nn.Module):
    """``(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``, halves to even."""

    def __init__(self, site: ActivationSite) -> None:
        super().__init__()
        self.scale, self.low, self.high = site.scale, site.qmin - site.zero_point, site.qmax - site.zero_point

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, of any shape."""
        return torch.clamp(torch.round(x / self.scale), self.low, self.high) * self.scale


class PlainDynamicQuantizer(nn.Module):
    """The grid of each tensor as it comes, as ``DynamicQuantizeLinear`` has it; zeros have the scale 1."""

    def __init__(self, site: ActivationSite) -> None:
        super().__init__()
        self.qmin, self.qmax = site.qmin, site.qmax

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, of any shape."""
        low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
        spread = (high - low) / (self.qmax - self.qmin)
        scale = torch.where(spread > 0, spread, torch.ones_like(spread))
        zero = torch.round(torch.clamp(-low / scale, self.qmin, self.qmax))
        return (torch.clamp(torch.round(x / scale) + zero, self.qmin, self.qmax) - zero) * scale


class PlainRecurrent(nn.Module):
    """A recurrent layer whose parameters hold the values of the integers, behind the quantiser of its input.

    Exporters bind the parameters that such a layer holds, whatever its forward pass puts in their place.
    """

    def __init__(self, layer: QuantizedRecurrent) -> None:
        super().__init__()
        kind = next(each for each in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(layer, each))
        self.input_quantizer = layer.input_quantizer
        self.layer: Any = twin(layer, kind)
        self.layer._modules = {}  # quantisers, of which it knows nothing
        with torch.no_grad():
            for name, value in layer.weights.items():
                held = nn.Parameter(value(getattr(layer, name)).detach().clone(), requires_grad=False)
                setattr(self.layer, name, held)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the layer's own."""
        x = input
        if self.input_quantizer is not None:
            packed = isinstance(input, PackedSequence)
            data = self.input_quantizer(input.data if packed else input)
            x = PackedSequence(data, *input[1:]) if packed else data
        return self.layer(x, hx)


def plain_model(model: nn.Module, *, activations: bool = True) -> nn.Module:
    """A copy on the CPU, in eval mode, that computes what ``model`` simulates.

    Weights are the values of their integers.

    Args:
        model: float or quantised; not changed.
        activations: whether they are quantised too.

    Raises:
        StageError: MC431, a quantiser has no range yet.
    """
    marked = mark(model, "torchscript")
    marked.model.cpu()
    for name, module in list(marked.model.named_modules()):
        if isinstance(module, Marker):
            site = marked.activations.get(module.name)
            marked.model.set_submodule(name, _quantizer(site) if site is not None and activations else nn.Identity())
    for name, module in list(marked.model.named_modules()):
        if isinstance(module, QuantizedRecurrent):
            marked.model.set_submodule(name, PlainRecurrent(module))
    return marked.model.eval()


def _quantizer(site: ActivationSite) -> nn.Module:
    return PlainDynamicQuantizer(site) if site.dynamic else PlainQuantizer(site)
