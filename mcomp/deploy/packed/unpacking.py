"""Read packed weights back as the numbers that the network multiplies with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcomp.deploy.packed import container
from mcomp.deploy.packed.codes import bytes_for, unpack_bits, unpack_trits
from mcomp.errors import StageError


@dataclass(frozen=True)
class Unpacked:
    """What a packed file holds.

    Attributes:
        tensors: by name: quantised weights in float32, as the network multiplies with them, and all others as they
            were.
        weights: names of those that were quantised.
        metadata: what was given to :func:`mcomp.deploy.pack`.
    """

    tensors: dict[str, Tensor]
    weights: tuple[str, ...]
    metadata: dict[str, str]


def unpack(path: str | Path) -> Unpacked:
    """Read a file of :func:`mcomp.deploy.pack`. Nothing in it is executed.

    Raises:
        StageError: MC472, it cannot be read, is another kind of file, or is truncated or damaged; MC473, a newer mcomp
            wrote it.
    """
    header, data = container.read(Path(path))
    try:
        tensors = {name: _tensor(entry, data) for name, entry in header["tensors"].items()}
        weights = tuple(name for name, entry in header["tensors"].items() if "bits" in entry)
        metadata = {str(name): str(value) for name, value in header["metadata"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StageError(
            f"`{path}` describes a tensor that it does not hold",
            code="MC472",
            why=f"{type(error).__name__}: {error}",
            hint="make the file again with `mcomp.deploy.pack`",
        ) from error
    return Unpacked(tensors, weights, metadata)


def dequantise(
    values: NDArray[np.int32], scale: NDArray[np.float32], zero_point: NDArray[np.int32] | None, axis: int
) -> NDArray[np.float32]:
    """``(values - zero_point) * scale`` along ``axis``, in float32."""
    along = [1] * values.ndim
    if values.ndim:
        along[axis] = -1
    centred = values if zero_point is None else values - zero_point.reshape(along)
    product: NDArray[np.float32] = centred.astype(np.float32) * scale.reshape(along)
    return product


def _tensor(entry: dict[str, Any], data: NDArray[np.uint8]) -> Tensor:
    shape = [int(side) for side in entry["shape"]]
    count = int(np.prod(shape, dtype=np.int64))
    if any(side < 0 for side in shape):
        raise ValueError(f"a shape of {shape}")
    if "type" in entry:
        if entry["type"] == "bfloat16":
            halves = _numbers(data, entry["at"], "<i2", count).reshape(shape)
            return torch.from_numpy(halves.astype(np.int16)).view(torch.bfloat16)
        kind = np.dtype(entry["type"])
        return torch.from_numpy(_numbers(data, entry["at"], kind.newbyteorder("<"), count).astype(kind).reshape(shape))
    bits = int(entry["bits"]) or None
    stored = _numbers(data, entry["at"], "u1", bytes_for(count, bits))
    codes = unpack_trits(stored, count) if bits is None else unpack_bits(stored, bits, count)
    values = codes.astype(np.int32).reshape(shape) * int(entry["step"]) + int(entry["low"])
    scale = _numbers(data, entry["scale"], "<f4", entry["scales"])
    zero = _numbers(data, entry["zero_point"], "<i4", entry["scales"]) if "zero_point" in entry else None
    return torch.from_numpy(dequantise(values.astype(np.int32), scale.astype(np.float32), zero, entry["axis"]))


def _numbers(data: NDArray[np.uint8], start: int, kind: Any, count: int) -> NDArray[Any]:
    kind = np.dtype(kind)
    if kind.hasobject or start < 0 or start + count * kind.itemsize > len(data):
        raise ValueError(f"{count} numbers of type {kind} from byte {start} on do not lie in {len(data)} bytes")
    return data[start : start + count * kind.itemsize].view(kind)
