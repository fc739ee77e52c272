"""Every quantised weight of a network: its integers, and which tensors of the state they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        same_as: the name under which the same module came before; empty for the first.
    """

    name: str
    values: NDArray[np.int32]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32] | None
    axis: int
    simulated: NDArray[np.float32]
    replaced: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    same_as: str = ""


def quantised_weights(model: nn.Module) -> list[QuantisedWeight]:
    """The quantised weights of ``model``, in its order; none for a float model. A module of two names has two.

    Raises:
        StageError: MC431, a scale is not a number above 0; or a weight holds inf or nan, or has no range yet.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(f"{name}." if name else "")
    parameters: dict[nn.Module, list[tuple[str, Tensor]]] = {}
    for path, (reader, tensor) in quantized_parameters(model).items():
        parameters.setdefault(reader, []).append((path, tensor))
    found: list[QuantisedWeight] = []
    for module, prefixes in names.items():
        if isinstance(module, FoldedLayer):
            weight = _weight(f"{prefixes[0]}weight", module.integer_weight(), module.dequantized_weight())
            found += [_of_layer(weight, before, ("weight_int", "weight_scale"), ()) for before in prefixes]
        elif isinstance(module, QuantizedLayer) and module.weight_quantizer.bits != OFF:
            weight = _weight(f"{prefixes[0]}weight", module.integer_weight(), _simulated(module, module.weight))
            found += [_of_layer(weight, before, ("weight",), ("weight_quantizer.",)) for before in prefixes]
        elif module in parameters and isinstance(module, QuantizedWeight) and module.weight_quantizer.bits != OFF:
            found += _read_by(module, parameters[module], tuple(prefixes))
    return found


def _of_layer(
    weight: QuantisedWeight, before: str, replaced: tuple[str, ...], inside: tuple[str, ...]
) -> QuantisedWeight:
    """The same weight under the name of a layer that starts with ``before``."""
    name = f"{before}weight"
    return replace(
        weight,
        name=name,
        replaced=tuple(before + each for each in replaced),
        inside=tuple(before + each for each in inside),
        same_as="" if name == weight.name else weight.name,
    )


def _read_by(
    module: QuantizedWeight, tensors: list[tuple[str, Tensor]], inside: tuple[str, ...]
) -> list[QuantisedWeight]:
    """What ``module``, which has the names ``inside``, reads under one name or several."""
    found: dict[int, QuantisedWeight] = {}
    weights = []
    for path, tensor in tensors:
        first = found.get(id(tensor))
        if first is None:
            first = found[id(tensor)] = _weight(path, module.integers_of(tensor), _simulated(module, tensor))
        same_as = "" if path == first.name else first.name
        weights.append(replace(first, name=path, replaced=(path,), inside=inside, same_as=same_as))
    return weights


def _simulated(module: QuantizedWeight, weight: Tensor) -> Tensor:
    with torch.no_grad():
        return module.read_weight(weight.detach())


def _weight(name: str, integers: IntegerWeight, simulated: Tensor) -> QuantisedWeight:
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
    )


def _array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().astype(dtype)
