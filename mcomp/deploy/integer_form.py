"""One integer form for every scheme: integers, scale, zero point, axis and bits of each quantised tensor.

Whatever trained a tensor (DoReFa, LSQ, IAO, ristretto, binary, ternary, 2 to 16 bits), from here on it is affine
integers, together with how far these are from what was simulated and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.quantization.integers import IntegerWeight


@dataclass(frozen=True)
class ActivationSite:
    """One quantised tensor: ``value = (q - zero_point) * scale`` with ``qmin <= q <= qmax``.

    Of a ``dynamic`` one, scale and zero point are those of each tensor by the formula of ``DynamicQuantizeLinear``.
    """

    name: str
    bits: int
    scale: float
    zero_point: int
    qmin: int
    qmax: int
    dynamic: bool = False


@dataclass(frozen=True)
class WeightSite:
    """One quantised weight: ``(values - zero_point) * scale`` along axis 0, and how far that is from the simulation.

    ``values`` have their output channels first; ``axis`` is where the layer's own weight has them.
    """

    name: str
    bits: int
    values: NDArray[np.int32]
    scale: NDArray[np.float32]
    exact: bool
    max_abs_error: float
    why: str
    zero_point: int = 0
    axis: int = 0


def activation_site(name: str, module: Any) -> ActivationSite:
    """The integers behind an activation quantiser.

    Raises:
        StageError: MC431, it has no range, one for each tensor or channel, or a scale that is no positive number.
    """
    from mcomp.quantization.quantizers import DynamicQuantizer

    if isinstance(module, DynamicQuantizer):
        return ActivationSite(name, module.bits, 1.0, 0, module.qmin, module.qmax, dynamic=True)
    if module.dynamic:
        raise StageError(
            f"the range of `{name}` is found anew for each tensor",
            code="MC431",
            why="a Q/DQ pair has a constant scale",
            hint="give that quantiser an observer, and calibrate it",
        )
    if not module.ready:
        raise StageError(
            f"activation quantiser `{name}` has no range yet",
            code="MC431",
            why="it was neither trained nor calibrated",
            hint="run `mcomp.quantization.calibrate(model, batches)`, or train with `quantize` first",
        )
    qparams = module.qparams()
    if qparams.axis is not None:
        raise StageError(
            f"`{name}` has a scale per channel",
            code="MC431",
            why="an integer convolution sums over its input channels, so they need one scale",
            hint="leave `channel_axis` out for activations",
        )
    _refuse_bad_scale(name, np.asarray([qparams.scale]))
    return ActivationSite(name, module.bits, qparams.scale, qparams.zero_point, qparams.qmin, qparams.qmax)


def weight_site(name: str, integers: IntegerWeight) -> WeightSite:
    """The integers of a weight, output channels first, with one zero point.

    Raises:
        StageError: MC431, a scale is no positive number.
    """
    integers = _one_zero_point(integers)
    scale = integers.scale.detach().cpu().numpy().astype(np.float32).reshape(-1)
    _refuse_bad_scale(name, scale)
    axis = integers.axis % max(integers.values.dim(), 1)
    return WeightSite(
        name=name,
        bits=integers.bits,
        values=np.moveaxis(integers.values.detach().cpu().numpy().astype(np.int32), axis, 0),
        scale=scale,
        exact=integers.exact,
        max_abs_error=integers.max_abs_error,
        why=integers.why,
        zero_point=0 if integers.zero_point is None else int(integers.zero_point.flatten()[0]),
        axis=axis,
    )


def _one_zero_point(integers: IntegerWeight) -> IntegerWeight:
    """Integers of the same weight with one zero point, which is all that ONNX Runtime's integer kernels take."""
    if integers.zero_point is None or bool((integers.zero_point == integers.zero_point.flatten()[0]).all()):
        return integers
    return integers.centred()


def _refuse_bad_scale(name: str, scale: NDArray[Any]) -> None:
    bad = [value for value in scale.tolist() if not math.isfinite(value) or value <= 0]
    if bad:
        raise StageError(
            f"the scale of `{name}` is {bad[0]} in {len(bad)} of {scale.size} channels, not a finite number above 0",
            code="MC431",
            why="the range was calibrated or trained to nothing, or the network diverged to NaN",
            hint="check the calibration data and the training loss, then quantise again",
        )
