"""Write a quantised network's weights in as many bits as they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcomp.deploy.checked_arguments import check_metadata, checked_path
from mcomp.deploy.packed.codes import pack_bits, pack_trits
from mcomp.deploy.packed.container import Body
from mcomp.deploy.packed.quantised_weights import QuantisedWeight, quantised_weights
from mcomp.deploy.packed.unpacking import unpack
from mcomp.errors import StageError, UsageError
from mcomp.quantization.config import OFF

#: How three values are stored: five in a byte (1.6 bits each), or two bits each, which are read faster.
Ternary = Literal["base3", "2bit"]

_COUNTERS = "num_batches_tracked"  # of training; nothing computes with it
_WIDEST = 16


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of the file.

    Attributes:
        name: in the model.
        shape: of the tensor.
        encoding: ``1-bit`` … ``16-bit``, ``base3``, or the type of a tensor that is kept as it is.
        levels: different values that a weight's codes can have; 0 for a tensor that is kept.
        bytes: of its codes, or of the tensor.
        scale_bytes: of its scales and zero points.
        float_bytes: that it would have in float32.
        exact: whether what the file gives back is the simulated weight, or the tensor that was kept.
        max_abs_error: the largest difference to it.
        same_as: another name of the same tensor, where its bytes are counted; empty where they are counted here.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    levels: int
    bytes: int
    scale_bytes: int
    float_bytes: int
    exact: bool = True
    max_abs_error: float = 0.0
    same_as: str = ""


@dataclass(frozen=True)
class Packing:
    """A packed file.

    Attributes:
        path: where it is.
        bytes: on the disk.
        tensors: of the file, weights first.
        notes: what a person must know.
    """

    path: Path
    bytes: int
    tensors: tuple[PackedTensor, ...]
    notes: tuple[str, ...] = ()

    @property
    def float_bytes(self) -> int:
        """Of the same tensors in float32, each of them once."""
        return sum(tensor.float_bytes for tensor in self.tensors)

    @property
    def exact(self) -> bool:
        """Whether each weight came back from the file as it is simulated, and all else as it is."""
        return all(tensor.exact for tensor in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "file": self.path.name,
            "bytes": self.bytes,
            "float_bytes": self.float_bytes,
            "exact": self.exact,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "notes": list(self.notes),
        }


def pack(
    model: nn.Module, path: str | Path, *, ternary: Ternary = "base3", metadata: Mapping[str, str] | None = None
) -> Packing:
    """Write the weights of ``model`` to a file: quantised ones as codes and scales, all other tensors as they are.

    A code has as many bits as the weight has levels, at most 16. :func:`mcomp.deploy.unpack` gives back the weights
    that the model multiplies with, the same float32 numbers; the file is read back and compared with them. Latent
    weights of training, and its counters, stay behind. A tensor of several names is stored once, under each of them.

    Args:
        model: quantised, its batch norms folded or not; not changed.
        path: of the file; replaced in full or not at all.
        ternary: how weights of three values are stored.
        metadata: names and values to keep in the header.

    Raises:
        UsageError: MC427, an argument is of another kind; MC445, the path is none.
        StageError: MC471, no weight is quantised, or a tensor has a type that the format does not have; MC431, a scale
            is not a number; MC472, the file cannot be written or read back; or a weight holds inf or nan, or has no
            range yet.
    """
    from mcomp.quantization.inputs import check_model

    check_model(model)
    place = checked_path(path)
    check_metadata(metadata, text_only=True)
    if ternary not in get_args(Ternary):
        raise UsageError(f"`ternary` is {ternary!r}", code="MC427", hint=f"one of: {', '.join(get_args(Ternary))}")
    weights = quantised_weights(model)
    if not weights:
        raise StageError(
            "no weight of the model is quantised",
            code="MC471",
            why="packing stores integers; a float weight would take 32 bits as before",
            hint="quantise the model first: `mcomp.quantization.quantize(model, example_inputs)`",
        )
    body, header, rows, wanted = Body(), {}, [], {}
    for weight in weights:
        header[weight.name], row = _weight(weight, body, ternary)
        rows.append(row)
        wanted[weight.name] = torch.from_numpy(weight.simulated)
    for name, tensor, same_as in _kept(model, weights):
        data, kind = _as_it_is(name, tensor)
        header[name] = {"shape": list(tensor.shape), "at": body.add(data), "type": kind}
        rows.append(
            _counted(PackedTensor(name, tuple(tensor.shape), kind, 0, len(data), 0, 4 * tensor.numel()), same_as)
        )
        wanted[name] = tensor
    size = body.write(place, header, dict(metadata or {}))
    held = unpack(place).tensors
    compared = tuple(_compared(row, held[row.name], wanted[row.name]) for row in rows)
    return Packing(place, size, compared, _without_ranges(model))


def _without_ranges(model: nn.Module) -> tuple[str, ...]:
    """What a reader of the file must not take for measured: the weights' ranges are, for else they are refused."""
    from mcomp.quantization.calibration import quantizers

    empty = [name for name, each in quantizers(model).items() if each.bits != OFF and not each.ready]
    if not empty:
        return ()
    have = "range has" if len(empty) == 1 else "ranges have"
    return (
        f"{len(empty)} activation {have} not been calibrated yet, first `{empty[0]}`: the file holds the weights, and "
        "placeholders for these",
    )


def _counted(row: PackedTensor, same_as: str) -> PackedTensor:
    """``row`` without its bytes, where another one has them."""
    return replace(row, bytes=0, scale_bytes=0, float_bytes=0, same_as=same_as) if same_as else row


def _compared(row: PackedTensor, held: Tensor, wanted: Tensor) -> PackedTensor:
    """``row`` and what the file gives back for it; a NaN that was kept is like any other number."""
    if torch.equal(held, wanted) or (not row.levels and _as_it_is(row.name, held) == _as_it_is(row.name, wanted)):
        return row
    apart = (held.to(torch.complex128) - wanted.to(torch.complex128)).abs()
    return replace(row, exact=False, max_abs_error=float(apart.nan_to_num(nan=torch.finfo(torch.float64).max).max()))


def _weight(weight: QuantisedWeight, body: Body, ternary: Ternary) -> tuple[dict[str, Any], PackedTensor]:
    values, scale = _without_dead_channels(weight)
    low = int(values.min()) if values.size else 0
    step = int(np.gcd.reduce((values - low).reshape(-1))) or 1
    codes = ((values - low) // step).reshape(-1)
    levels = int(codes.max(initial=0)) + 1
    bits = max(1, (levels - 1).bit_length())
    if bits > _WIDEST:
        raise StageError(f"`{weight.name}` has {levels} levels", code="MC471", why="the format has at most 16 bits")
    in_fives = levels == 3 and ternary == "base3"
    data = pack_trits(codes.astype(np.uint16)) if in_fives else pack_bits(codes.astype(np.uint16), bits)
    entry: dict[str, Any] = {
        "shape": list(values.shape),
        "at": body.add(data),
        "bits": 0 if in_fives else bits,
        "low": low,
        "step": step,
        "axis": weight.axis,
        "scale": body.add(scale.astype("<f4").tobytes()),
        "scales": scale.size,
    }
    scale_bytes = 4 * scale.size
    if weight.zero_point is not None:
        entry["zero_point"] = body.add(weight.zero_point.astype("<i4").tobytes())
        scale_bytes *= 2
    encoding, shape = "base3" if in_fives else f"{bits}-bit", tuple(values.shape)
    row = PackedTensor(weight.name, shape, encoding, levels, len(data), scale_bytes, 4 * values.size)
    return entry, _counted(row, weight.same_as)


def _without_dead_channels(weight: QuantisedWeight) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Channels of zeros as a scale of 0, so that a binary filter that died needs no third value."""
    values, scale = weight.values, weight.scale
    if weight.zero_point is not None or scale.size == 1 or values.size == 0:
        return values, scale
    rows = np.moveaxis(values, weight.axis, 0)
    dead = ~rows.reshape(len(rows), -1).any(axis=1)
    if not dead.any() or dead.all():
        return values, scale
    filled, scale = rows.copy(), np.where(dead, np.float32(0), scale)
    filled[dead] = values.max()
    return np.ascontiguousarray(np.moveaxis(filled, 0, weight.axis)), scale


def _kept(model: nn.Module, weights: list[QuantisedWeight]) -> Iterator[tuple[str, Tensor, str]]:
    """The tensors of the state that packed weights do not stand for, with the first name of those that came before."""
    first: dict[int, str] = {}
    replaced = {name for weight in weights for name in weight.replaced}
    inside = tuple(prefix for weight in weights for prefix in weight.inside)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in replaced or name.startswith(inside) or name.rpartition(".")[2] == _COUNTERS:
            continue
        if isinstance(tensor, Tensor):
            same_as = first.setdefault(id(tensor), name)
            yield name, tensor.detach().cpu(), "" if same_as == name else same_as


def _as_it_is(name: str, tensor: Tensor) -> tuple[bytes, str]:
    """The bytes of a tensor, little end first, and numpy's name of its type, or ``bfloat16``."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().astype("<i2").tobytes(), kind
    try:
        array = tensor.contiguous().numpy()
    except TypeError as error:
        raise StageError(
            f"`{name}` has the type {kind}, which the format does not have",
            code="MC471",
            hint="convert that tensor to float32 first",
        ) from error
    return array.astype(array.dtype.newbyteorder("<")).tobytes(), array.dtype.name
