"""From the integer form of an activation to the stored integers of one target.

Where the tensor's own grid fits the target's integers its values are kept exactly; where it does not, the tensor is
requantised, and its row of the table says so with the largest error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcomp.deploy.half_precision import half_scale
from mcomp.deploy.integer_form import ActivationSite
from mcomp.deploy.lowering import TensorLowering
from mcomp.deploy.profiles.base import Profile


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


def lower_activation(site: ActivationSite, target: Profile, *, half: bool = False) -> ActivationGrid:
    """Choose the stored integers of one activation (deploy rules E2, E5 and E8 hold by construction).

    ``half`` rounds its scale to half precision.
    """
    grid = _lowered(site, target)
    scale = half_scale(np.asarray([grid.scale], np.float32))[0]
    if not half or grid.dtype is None or scale == grid.scale:
        return grid
    reach = max(abs(grid.low - grid.zero_point), abs(grid.high - grid.zero_point))
    row = replace(
        grid.row,
        scale=float(scale),
        exact=False,
        max_abs_error=grid.row.max_abs_error + float(abs(scale - grid.scale)) * reach + float(grid.scale) / 2,
        why="; ".join([*([grid.row.why] if grid.row.why else []), "scales rounded to half precision"]),
    )
    return replace(grid, scale=np.float32(scale), row=row)


def _lowered(site: ActivationSite, target: Profile) -> ActivationGrid:
    scale = np.float32(site.scale)
    held = _held(site, target)
    if held is not None:
        return _grid(site, scale, site.zero_point, np.dtype(held[0]), site.qmin, site.qmax, held[1])
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


def _held(site: ActivationSite, target: Profile) -> tuple[type[np.integer[Any]], int] | None:
    """The 8-bit type that holds the simulated integers as they are, and by how much they are shifted; or None."""
    if site.zero_point and not target.asymmetric:
        return None
    if target.unsigned != "never":
        shift = 128 if site.qmin < 0 and target.unsigned == "always" else 0
        if site.qmin + shift >= 0 and site.qmax + shift <= 255:
            return np.uint8, shift
    if target.unsigned != "always" and site.qmin >= -128 and site.qmax <= 127:
        return np.int8, 0
    return None


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
