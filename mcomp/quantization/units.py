"""What is quantised together: a layer, its weights, and the tensors that it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from mcomp.quantization.attention import QuantAttention, QuantMultiheadAttention
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.parameter_values import quantized_parameters
from mcomp.quantization.quantized_functions import QuantizedFunction
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.recurrent import QuantizedCell, QuantizedRecurrent
from mcomp.quantization.summary import readers

_HOLDERS = (
    QuantizedLayer,
    QuantizedRecurrent,
    QuantizedCell,
    QuantMultiheadAttention,
    QuantAttention,
    QuantizedFunction,
    FoldedLayer,
)


@dataclass
class Unit:
    """One layer, function or parameter.

    Attributes:
        name: dotted.
        module: the layer; None where a function or a bare parameter has no module of its own.
        weights: name, quantiser and present float value of each.
        activations: quantisers of what it reads, or makes.
    """

    name: str
    module: nn.Module | None = None
    weights: list[tuple[str, Quantizer, Tensor]] = field(default_factory=list)
    activations: list[Quantizer] = field(default_factory=list)
    axes: dict[str, int] = field(default_factory=dict)

    def axis(self, weight: str) -> int:
        """Where that weight has its output channels."""
        return self.axes.get(weight, 0)

    @property
    def quantizers(self) -> list[Quantizer]:
        """All of them."""
        return [*(quantizer for _, quantizer, _ in self.weights), *self.activations]


def units(model: nn.Module) -> list[Unit]:
    """Everything in ``model`` that is quantised, in the model's order; a tensor that two layers read is in both."""
    found: dict[str, Unit] = {}
    modules = dict(model.named_modules())

    def unit(name: str) -> Unit:
        return found.setdefault(name, Unit(name, modules.get(name)))

    for name, module in modules.items():
        if isinstance(module, QuantizedLayer):
            of = unit(_outermost(name, modules))
            of.weights.append((name, module.weight_quantizer, module.weight))
            of.axes[name] = module.channel_axis
        elif isinstance(module, FoldedLayer):
            unit(name)
    for path, (read, weight) in quantized_parameters(model).items():
        of = unit(_holder(path, modules) or path)
        of.weights.append((path, read.weight_quantizer, weight))
        of.axes[path] = read.channel_axis
    for name, quantizer in quantizers(model).items():
        for reader in readers(quantizer) or (_holder(name, modules) or name,):
            unit(reader).activations.append(quantizer)
    return list(found.values())


def _holder(name: str, modules: dict[str, nn.Module]) -> str:
    """The layer that a quantiser or parameter belongs to; empty where none does."""
    parts = name.split(".")[:-1]
    holders = [
        path for end in range(len(parts)) if isinstance(modules.get(path := ".".join(parts[: end + 1])), _HOLDERS)
    ]
    return holders[0] if holders else ""


def _outermost(name: str, modules: dict[str, nn.Module]) -> str:
    """The layer itself, or the composite one that it is a part of."""
    return _holder(name, modules) or name
