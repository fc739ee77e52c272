"""From a quantised tensor to the integers of one target, and how exact that is.

A profile says which integers a runtime takes. Where a tensor's own grid fits them, its values are kept exactly;
where it does not, the tensor is requantised, and the table says so with the largest error.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcomp.deploy.marking import ActivationSite, WeightSite
from mcomp.errors import UsageError

ProfileName = Literal["onnxruntime", "tensorrt", "float"]


@dataclass(frozen=True)
class Profile:
    """What one runtime takes.

    Attributes:
        name: as given to :func:`mcomp.deploy.to_onnx`.
        unsigned: activations are uint8 (signed ones shifted by 128), which is ONNX Runtime's fast path; else int8
            with zero point 0, all that TensorRT takes.
        sixteen_bits: grids of 9 to 16 bits may be kept as int16; else they stay float.
        absorb_relu: a ReLU in front of an unsigned quantiser is left to its saturation.
        clip_integers: a range narrower than the integer type is clipped after quantising, so that a convolution
            still meets its quantiser; else before, where it fuses like a ReLU6.
        integer_bias: biases are int32 in units of input scale times weight scale; else float.
    """

    name: ProfileName
    unsigned: bool
    sixteen_bits: bool
    absorb_relu: bool
    clip_integers: bool
    integer_bias: bool


PROFILES: dict[str, Profile] = {
    "onnxruntime": Profile("onnxruntime", True, True, True, True, True),
    "tensorrt": Profile("tensorrt", False, False, False, False, False),
}


def find_profile(name: str) -> Profile | None:
    """The profile called ``name``; None for ``float``.

    Raises:
        UsageError: MC432, no such profile.
    """
    if name != "float" and name not in PROFILES:
        raise UsageError(f"no profile `{name}`", code="MC432", hint=f"profiles: {', '.join([*PROFILES, 'float'])}")
    return PROFILES.get(name)


@dataclass(frozen=True)
class TensorLowering:
    """How one tensor was turned into integers.

    Attributes:
        name: the quantiser's or weight's name in the model.
        kind: what the tensor is.
        bits: of the simulated grid.
        scale: one number, or one per output channel.
        zero_point: of the stored integers.
        dtype: ``int8``, ``uint8``, ``int16``, ``uint16``, ``int32`` or ``float32``.
        exact: True if every simulated value is represented as it is.
        max_abs_error: the largest difference to the simulated value inside its range.
        why: the reason where it is not exact.
    """

    name: str
    kind: Literal["activation", "weight", "bias"]
    bits: int
    scale: float | list[float]
    zero_point: int
    dtype: str
    exact: bool = True
    max_abs_error: float = 0.0
    why: str = ""


@dataclass
class Lowering:
    """A written file and what it holds. ``exact`` speaks of activations and weights; biases have their own rows.

    ``bytes`` is the file's size on disk.
    """

    path: Path
    profile: str
    tensors: list[TensorLowering] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def exact(self) -> bool:
        """True if every activation and weight is represented as simulated."""
        return all(tensor.exact for tensor in self.tensors if tensor.kind != "bias")

    @property
    def max_abs_error(self) -> float:
        """The largest error of an activation or weight."""
        return max((tensor.max_abs_error for tensor in self.tensors if tensor.kind != "bias"), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the content of ``qparams.json``."""
        return {
            "profile": self.profile,
            "file": self.path.name,
            "bytes": self.bytes,
            "exact": self.exact,
            "max_abs_error": self.max_abs_error,
            "notes": self.notes,
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


@dataclass(frozen=True)
class ActivationGrid:
    """Stored integers of an activation.

    Attributes:
        scale, zero_point, dtype: of the Q/DQ pair; dtype None leaves the tensor float.
        low, high: the stored integers that the simulation can reach.
        row: for the table.
    """

    scale: np.float32
    zero_point: int
    dtype: np.dtype[Any] | None
    low: int
    high: int
    row: TensorLowering

    def clips(self) -> tuple[bool, bool]:
        """Whether the range is narrower than the integer type below and above."""
        if self.dtype is None:
            return True, True
        limits = np.iinfo(self.dtype)
        return self.low > limits.min, self.high < limits.max

    def bounds(self) -> tuple[np.float32, np.float32]:
        """The range of the unquantised tensor that is not clipped."""
        low, high = self.low - self.zero_point, self.high - self.zero_point
        return np.float32(low) * self.scale, np.float32(high) * self.scale


def lower_activation(site: ActivationSite, target: Profile) -> ActivationGrid:
    """Choose the stored integers of one activation (deploy rules E2, E5 and E8 hold by construction)."""
    scale = np.float32(site.scale)
    if target.unsigned:
        shift = 0 if site.qmin >= 0 else 128
        if site.qmin + shift >= 0 and site.qmax + shift <= 255:
            return _grid(site, scale, site.zero_point, np.dtype(np.uint8), site.qmin, site.qmax, shift)
    elif site.zero_point == 0 and site.qmin >= -128 and site.qmax <= 127:
        return _grid(site, scale, 0, np.dtype(np.int8), site.qmin, site.qmax)
    if site.bits > 8:
        dtype = np.dtype(np.uint16 if site.qmin >= 0 else np.int16)
        limits = np.iinfo(dtype)
        if target.sixteen_bits and limits.min <= site.qmin and site.qmax <= limits.max:
            return _grid(site, scale, site.zero_point, dtype, site.qmin, site.qmax)
        why = f"{site.bits} bits do not fit the target's integers: clipped, but left float"
        return _grid(site, scale, site.zero_point, None, site.qmin, site.qmax, error=float(scale) / 2, why=why)
    reach = max(abs(site.qmin - site.zero_point), abs(site.qmax - site.zero_point))
    coarse = np.float32(float(scale) * reach / 127)
    low = 0 if site.qmin >= site.zero_point else -127
    why = (
        f"{site.qmax} positive levels do not fit int8: rounded to 127"
        if site.zero_point == 0
        else f"zero point {site.zero_point}: the target takes symmetric int8 only, rounded to a grid of its own"
    )
    error = float(scale) / 2 + float(coarse) / 2
    return _grid(site, coarse, 0, np.dtype(np.int8), low, 127, error=error, why=why)


def _grid(
    site: ActivationSite,
    scale: np.float32,
    zero_point: int,
    dtype: np.dtype[Any] | None,
    low: int,
    high: int,
    shift: int = 0,
    error: float = 0.0,
    why: str = "",
) -> ActivationGrid:
    kept = "float32" if dtype is None else dtype.name
    row = TensorLowering(
        site.name, "activation", site.bits, float(scale), zero_point + shift, kept, not error, error, why
    )
    return ActivationGrid(scale, zero_point + shift, dtype, low + shift, high + shift, row)


@dataclass(frozen=True)
class WeightGrid:
    """Stored integers of a weight, the scale of each output channel, and the table's row; dtype None is float."""

    values: NDArray[Any]
    scale: NDArray[np.float32]
    row: TensorLowering

    @property
    def quantised(self) -> bool:
        """False if the target cannot hold the grid and the weight stays float."""
        return self.row.dtype != "float32"


def lower_weight(site: WeightSite, target: Profile) -> WeightGrid:
    """Choose the stored integers of one weight: int8, or int16 for 9 to 16 bits where the target takes it."""
    if site.zero_point and not target.unsigned:  # the target takes symmetric weights only
        site = replace(site, values=site.values - site.zero_point, zero_point=0, bits=site.bits + 1)
    channels = site.values.shape[0]
    scale = np.broadcast_to(site.scale, (channels,)).astype(np.float32)
    dead = ~(site.values - site.zero_point).reshape(channels, -1).any(axis=1)
    if site.scale.size > 1:
        scale[dead] = 1.0  # any scale is exact for zeros; a tiny one would overflow the int32 bias
    low, high = int(site.values.min(initial=0)), int(site.values.max(initial=0))
    if site.zero_point:
        held = next((kind for kind in (np.int8, np.uint8) if _holds(kind, low, high)), None)
        if held is not None:
            return _weight(site, site.values.astype(held), scale)
        site = replace(site, values=site.values - site.zero_point, zero_point=0, bits=site.bits + 1)
        low, high = int(site.values.min(initial=0)), int(site.values.max(initial=0))
    if low >= -128 and high <= 127:
        values, scale = _widen(site.values, scale) if target.integer_bias else (site.values, scale)
        return _weight(site, values.astype(np.int8), scale)
    if site.bits > 8 and not _is_paper_eight_bits(site):
        if target.sixteen_bits and _holds(np.int16, low, high):
            return _weight(site, site.values.astype(np.int16), scale)
        return _weight(site, site.values.astype(np.float32), scale, kept="float32")
    real = site.values.astype(np.float64) * scale.reshape(-1, *[1] * (site.values.ndim - 1))
    peak = np.abs(real).reshape(channels, -1).max(axis=1)
    coarse = np.where(peak > 0, peak / 127, 1.0).astype(np.float32)
    by_channel = coarse.astype(np.float64).reshape(-1, *[1] * (site.values.ndim - 1))
    values = np.clip(np.rint(real / by_channel), -127, 127)
    error = float(np.abs(values * by_channel - real).max())
    why = f"integers up to {max(-low, high)} do not fit int8: rounded to 127 levels a side, per channel"
    return _weight(site, values.astype(np.int8), coarse, error=error, why=why)


def _holds(kind: type[np.integer[Any]], low: int, high: int) -> bool:
    limits = np.iinfo(kind)
    return bool(limits.min <= low and high <= limits.max)


def _widen(values: NDArray[np.int32], scale: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Double a channel's integers and halve its scale while they fit int8: the same values, a finer int32 bias."""
    peak = np.abs(values).reshape(len(scale), -1).max(axis=1, initial=0)
    shift = np.floor(np.log2(127 / np.maximum(peak, 1))) * (peak > 0)
    factor = np.exp2(np.clip(shift, 0, None))
    wide = values * factor.astype(np.int32).reshape(-1, *[1] * (values.ndim - 1))
    return wide, (scale / factor).astype(np.float32)


def _is_paper_eight_bits(site: WeightSite) -> bool:
    """DoReFa's paper grid at 8 bits: odd multiples up to 255, which need 9 bits but are meant as 8."""
    return bool(np.abs(site.values).max(initial=0) <= 255 and np.all(site.values % 2 != 0))


def _weight(
    site: WeightSite,
    values: NDArray[Any],
    scale: NDArray[np.float32],
    kept: str = "",
    error: float = 0.0,
    why: str = "",
) -> WeightGrid:
    reasons = "; ".join(reason for reason in (site.why, why) if reason)
    total = site.max_abs_error + error
    row = TensorLowering(
        name=site.name,
        kind="weight",
        bits=site.bits,
        scale=[float(entry) for entry in scale] if len(set(scale.tolist())) > 1 else float(scale[0]),
        zero_point=site.zero_point,
        dtype=kept or values.dtype.name,
        exact=site.exact and not error,
        max_abs_error=total,
        why=reasons,
    )
    return WeightGrid(values, scale, row)
