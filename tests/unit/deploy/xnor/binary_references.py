"""Binary layers with given signs, and what they compute by their definition, in float64, where no sum is rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy.xnor import available_paths
from mcomp.errors import BackendMissingError
from mcomp.quantization.folded import FoldedQuantConv1d, FoldedQuantConv2d, FoldedQuantLinear
from mcomp.quantization.layers import QuantConv1d, QuantConv2d, QuantLinear
from mcomp.quantization.quantizers import BinaryActivation, BinaryWeight

try:
    PATHS = available_paths()
    WHY_NOT = ""
except BackendMissingError as error:
    PATHS, WHY_NOT = ["scalar"], f"the loops cannot be compiled here: {error.message}"

needs_loops = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

_BY_HAND: dict[type[nn.Module], Any] = {
    nn.Conv1d: (QuantConv1d, FoldedQuantConv1d),
    nn.Conv2d: (QuantConv2d, FoldedQuantConv2d),
    nn.Linear: (QuantLinear, FoldedQuantLinear),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def binary(layer: nn.Module, codes: str = "pm1", input_scale: bool = False) -> Any:
    """A quantised layer in the place of ``layer``, which binarises its own input."""
    kind, _ = _BY_HAND[type(layer)]
    arguments = (
        (layer.in_features, layer.out_features)
        if isinstance(layer, nn.Linear)
        else (layer.in_channels, layer.out_channels, layer.kernel_size)
    )
    options: dict[str, Any] = {"bias": layer.bias is not None}
    if not isinstance(layer, nn.Linear):
        options |= {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
    made = kind(*arguments, **options, scheme="wbwtab", w_bits=1, a_bits=1, codes=codes, input_scale=input_scale)
    made.load_state_dict(layer.state_dict(), strict=False)
    assert isinstance(made.weight_quantizer, BinaryWeight)
    assert isinstance(made.input_quantizer, BinaryActivation)
    return made.eval()


def integers(layer: Any) -> tuple[Tensor, Tensor]:
    """The signs and scales of a binary layer, by its own account."""
    found = layer.integer_weight()
    return found.values.double(), found.scale


def signs(x: Tensor, codes: str = "pm1") -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0 if codes == "pm1" else 0.0)


def exact_sums(layer: Any, x: Tensor, codes: str = "pm1") -> Tensor:
    """The sums of products as integers, in float64."""
    values, _ = integers(layer)
    read = signs(x, codes).double()
    if isinstance(layer, nn.Linear):
        return F.linear(read, values)
    padding: Any = layer.padding
    if layer.padding_mode != "zeros":
        read = F.pad(read, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0
    convolve: Any = F.conv1d if read.dim() == 3 else F.conv2d
    return convolve(read, values, None, layer.stride, padding, layer.dilation, layer.groups)


def expected(layer: Any, x: Tensor, codes: str = "pm1") -> Tensor:
    """``float32(sum) * scale``, rounded once, plus the bias, rounded once more."""
    _, scale = integers(layer)
    shape = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (x.dim() - 2))
    output = exact_sums(layer, x, codes).float() * scale.expand(len(layer.weight)).view(shape)
    return output if layer.bias is None else output + layer.bias.detach().view(shape)
