"""What a header may say of a tensor: nothing is allocated or computed before it is known to lie in the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcomp.deploy.packed.codes import bytes_for

#: Types that a tensor may be kept in, as numpy calls them; and one that numpy does not have.
BFLOAT16 = "bfloat16"
KEPT_TYPES = frozenset(
    {
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    }
)

_INT32 = np.iinfo(np.int32)
_MOST_BITS, _MOST_SIDES = 16, 64
_KEPT = {"shape", "at", "type"}
_QUANTISED = {"shape", "at", "bits", "low", "step", "axis", "scale", "scales"}


@dataclass(frozen=True)
class KeptEntry:
    """A tensor as it was: its shape and its numbers."""

    shape: tuple[int, ...]
    kind: str
    numbers: NDArray[Any]


@dataclass(frozen=True)
class WeightEntry:
    """A quantised weight: ``(code * step + low - zero_point) * scale``.

    Attributes:
        shape: of the weight.
        bits: of a code; None for five codes of three values in a byte.
        stored: the bytes of the codes.
        low: see above.
        step: see above, at least 1.
        axis: of the scale.
        scale: float32 ``[1]`` or ``[shape[axis]]``.
        zero_point: int32, likewise; None for 0.
    """

    shape: tuple[int, ...]
    bits: int | None
    stored: NDArray[np.uint8]
    low: int
    step: int
    axis: int
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32] | None

    @property
    def count(self) -> int:
        """Codes."""
        return math.prod(self.shape)


def read_entry(entry: Any, data: NDArray[np.uint8]) -> KeptEntry | WeightEntry:
    """What ``entry`` of a header describes in ``data``, the bytes behind it.

    Raises:
        ValueError: something is missing, of another type, out of its range, unknown, or does not lie in ``data``.
    """
    if not isinstance(entry, dict) or set(entry) - {"zero_point"} not in (_KEPT, _QUANTISED):
        raise ValueError("an entry has other fields than a kept tensor or a quantised weight")
    shape = _shape(entry["shape"])
    count = math.prod(shape)
    if "type" in entry:
        kind = entry["type"]
        if not isinstance(kind, str) or kind not in KEPT_TYPES | {BFLOAT16} or "zero_point" in entry:
            raise ValueError("a kept tensor has a type that the format does not have")
        return KeptEntry(shape, kind, _numbers(data, entry, "at", "<i2" if kind == BFLOAT16 else kind, count))
    bits = _integer(entry, "bits", 0, _MOST_BITS) or None
    axis = _integer(entry, "axis", 0, max(len(shape) - 1, 0))
    scales = _integer(entry, "scales", 0, len(data))
    if scales not in (1, shape[axis] if shape else 1):
        raise ValueError(f"{scales} scales along axis {axis} of {list(shape)}")
    scale = _numbers(data, entry, "scale", "<f4", scales).astype(np.float32)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError("a scale is not a finite number of at least 0")
    return WeightEntry(
        shape=shape,
        bits=bits,
        stored=_numbers(data, entry, "at", "u1", bytes_for(count, bits)),
        low=_integer(entry, "low", _INT32.min, _INT32.max),
        step=_integer(entry, "step", 1, _INT32.max),
        axis=axis,
        scale=scale,
        zero_point=_numbers(data, entry, "zero_point", "<i4", scales).astype(np.int32)
        if "zero_point" in entry
        else None,
    )


def check_range(entry: WeightEntry, highest: int) -> None:
    """Refuse codes, up to ``highest``, whose values would not be int32 numbers.

    Raises:
        ValueError: they would not.
    """
    low, high = entry.low, highest * entry.step + entry.low
    if entry.zero_point is not None and entry.zero_point.size:
        low = min(low, low - int(entry.zero_point.max()))
        high = max(high, high - int(entry.zero_point.min()))
    if low < _INT32.min or high > _INT32.max:
        raise ValueError(f"values from {low} to {high}, which are no int32 numbers")


def _shape(sides: Any) -> tuple[int, ...]:
    good = isinstance(sides, list) and len(sides) <= _MOST_SIDES
    if not good or not all(type(side) is int and 0 <= side < 1 << 62 for side in sides):
        raise ValueError("a shape is not a list of up to 64 sizes")
    return tuple(sides)


def _integer(entry: dict[str, Any], name: str, least: int, most: int) -> int:
    value = entry[name]
    if type(value) is not int or not least <= value <= most:  # a bool is an int to Python
        raise ValueError(f"`{name}` is not a whole number from {least} to {most}")
    return value


def _numbers(data: NDArray[np.uint8], entry: dict[str, Any], name: str, kind: str, count: int) -> NDArray[Any]:
    start, dtype = _integer(entry, name, 0, len(data)), np.dtype(kind).newbyteorder("<")
    if start + count * dtype.itemsize > len(data):
        raise ValueError(f"{count} numbers of type {kind} from byte {start} on do not lie in {len(data)} bytes")
    return data[start : start + count * dtype.itemsize].view(dtype)
