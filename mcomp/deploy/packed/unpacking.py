"""Read packed weights back as the numbers that the network multiplies with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.packed import container
from mcomp.deploy.packed.codes import unpack_bits, unpack_trits
from mcomp.deploy.packed.entries import BFLOAT16, KeptEntry, WeightEntry, check_range, read_entry
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
        UsageError: MC445, the path is none.
        StageError: MC472, it cannot be read, is another kind of file, or is truncated or damaged; MC473, a newer mcomp
            wrote it.
    """
    header, data = container.read(checked_path(path))
    try:
        tensors = {name: _tensor(read_entry(entry, data)) for name, entry in header["tensors"].items()}
        weights = tuple(name for name, entry in header["tensors"].items() if "bits" in entry)
        metadata = {str(name): str(value) for name, value in header["metadata"].items()}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
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


def _tensor(entry: KeptEntry | WeightEntry) -> Tensor:
    if isinstance(entry, KeptEntry):
        if entry.kind == BFLOAT16:
            return torch.from_numpy(entry.numbers.astype(np.int16).reshape(entry.shape)).view(torch.bfloat16)
        return torch.from_numpy(entry.numbers.astype(np.dtype(entry.kind)).reshape(entry.shape))
    if entry.bits is None:
        codes = unpack_trits(entry.stored, entry.count)
    else:
        codes = unpack_bits(entry.stored, entry.bits, entry.count)
    check_range(entry, int(codes.max(initial=0)))
    values = codes.astype(np.int32).reshape(entry.shape) * np.int32(entry.step) + np.int32(entry.low)
    return torch.from_numpy(dequantise(values, entry.scale, entry.zero_point, entry.axis))
