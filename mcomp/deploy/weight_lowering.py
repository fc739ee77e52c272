"""From the integer form of a weight to the stored integers of one target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcomp.deploy.half_precision import half_scale
from mcomp.deploy.integer_form import WeightSite
from mcomp.deploy.lowering import TensorLowering
from mcomp.deploy.profiles.base import Profile


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


def lower_weight(site: WeightSite, target: Profile, *, half: bool = False, widen: bool = True) -> WeightGrid:
    """Choose the stored integers of one weight: int8, or int16 for 9 to 16 bits where the target takes it.

    Args:
        site: the weight.
        target: the profile.
        half: scales are to be half-precision numbers; the integers are rounded to them where that changes one.
        widen: few bits may be spread over eight, for a finer int32 bias.
    """
    grid = _lowered(site, target, widen=widen and not half)
    return _in_half(grid) if half else grid


def _lowered(site: WeightSite, target: Profile, *, widen: bool) -> WeightGrid:
    if site.zero_point and not target.asymmetric:  # the target takes symmetric weights only
        site = replace(site, values=site.values - site.zero_point, zero_point=0, bits=site.bits + 1)
    channels = site.values.shape[0]
    scale = np.broadcast_to(site.scale, (channels,)).astype(np.float32)
    dead = ~(site.values - site.zero_point).reshape(channels, -1).any(axis=1)
    if site.scale.size > 1:
        # any scale is exact for zeros; a tiny one would overflow the int32 bias, a large one make it coarse
        scale[dead] = np.median(scale[~dead]) if not dead.all() else 1.0
    low, high = int(site.values.min(initial=0)), int(site.values.max(initial=0))
    if site.zero_point:
        held = next((kind for kind in (np.int8, np.uint8) if _holds(kind, low, high)), None)
        if held is not None:
            return _weight(site, site.values.astype(held), scale)
        site = replace(site, values=site.values - site.zero_point, zero_point=0, bits=site.bits + 1)
        low, high = int(site.values.min(initial=0)), int(site.values.max(initial=0))
    if low >= -128 and high <= 127:
        values, scale = _widen(site.values, scale) if target.integer_bias and widen else (site.values, scale)
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


def _in_half(grid: WeightGrid) -> WeightGrid:
    """The grid with half-precision scales, and the integers that come closest to the same values on it."""
    scale = half_scale(grid.scale)
    if not grid.quantised or np.array_equal(scale, grid.scale):
        return grid
    limits = np.iinfo(grid.values.dtype)
    shape = (-1, *[1] * (grid.values.ndim - 1))
    real = (grid.values.astype(np.float64) - grid.row.zero_point) * grid.scale.astype(np.float64).reshape(shape)
    rounded = np.rint(real / scale.astype(np.float64).reshape(shape)) + grid.row.zero_point
    values = np.clip(rounded, limits.min, limits.max)
    error = float(
        np.abs((values - grid.row.zero_point) * scale.astype(np.float64).reshape(shape) - real).max(initial=0)
    )
    row = replace(
        grid.row,
        scale=[float(entry) for entry in scale] if isinstance(grid.row.scale, list) else float(scale[0]),
        exact=False,
        max_abs_error=grid.row.max_abs_error + error,
        why="; ".join([*([grid.row.why] if grid.row.why else []), "scales rounded to half precision"]),
    )
    return WeightGrid(values.astype(grid.values.dtype), scale, row)


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
