"""Every quantised weight of a network: its integers, and which tensors of the state they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.config import OFF
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.parameter_values import quantized_parameters


@dataclass(frozen=True)
class QuantisedWeight:
    """``(values - zero_point) * scale`` along ``axis``.

    Attributes:
        name: of the parameter.
        values: int32, in the weight's shape.
        scale: float32 ``[1]`` or ``[channels]``.
        zero_point: int32 in the shape of ``scale``; None for 0.
        axis: of the scale.
        simulated: float32, what the network multiplies with.
        replaced: names in the state that need not be kept.
        inside: and what their names start with.
    """

    name: str
    values: NDArray[np.int32]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32] | None
    axis: int
    simulated: NDArray[np.float32]
    replaced: tuple[str, ...]
    inside: tuple[str, ...] = ()


def quantised_weights(model: nn.Module) -> list[QuantisedWeight]:
    """The quantised weights of ``model``, in its order; none for a float model.

    Raises:
        StageError: MC431, a scale is not a number above 0; or a weight holds inf or nan, or has no range yet.
    """
    parameters = {id(module): found for found in quantized_parameters(model).items() for module in [found[1][0]]}
    found = []
    for name, module in model.named_modules():
        before = f"{name}." if name else ""
        if isinstance(module, FoldedLayer):
            names = (f"{before}weight_int", f"{before}weight_scale")
            weight = module.dequantized_weight()
            found.append(_weight(f"{before}weight", module.integer_weight(), weight, names))
        elif isinstance(module, QuantizedLayer) and module.weight_quantizer.bits != OFF:
            name = f"{before}weight"
            inside = (f"{before}weight_quantizer.",)
            found.append(_weight(name, module.integer_weight(), _simulated(module, module.weight), (name,), inside))
        elif id(module) in parameters and isinstance(module, QuantizedWeight) and module.weight_quantizer.bits != OFF:
            path, (_, tensor) = parameters[id(module)]
            found.append(_weight(path, module.integers_of(tensor), _simulated(module, tensor), (path,), (before,)))
    return found


def _simulated(module: QuantizedWeight, weight: Tensor) -> Tensor:
    with torch.no_grad():
        return module.read_weight(weight.detach())


def _weight(
    name: str, integers: IntegerWeight, simulated: Tensor, replaced: tuple[str, ...], inside: tuple[str, ...] = ()
) -> QuantisedWeight:
    scale = _array(integers.scale, np.float32).reshape(-1)
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        raise StageError(
            f"the scale of `{name}` is {bad[0]} in {bad.size} of {scale.size} channels, not a finite number above 0",
            code="MC431",
            why="the range was calibrated or trained to nothing, or the network diverged to NaN",
            hint="check the calibration data and the training loss, then quantise again",
        )
    values = _array(integers.values, np.int32)
    zero = integers.zero_point
    return QuantisedWeight(
        name=name,
        values=values,
        scale=scale,
        zero_point=None if zero is None else _array(zero, np.int32).reshape(-1),
        axis=integers.axis % max(values.ndim, 1),
        simulated=_array(simulated.float(), np.float32),
        replaced=replaced,
        inside=inside,
    )


def _array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().astype(dtype)
