"""Write a quantised network's weights in as many bits as they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcomp.deploy.packed.codes import pack_bits, pack_trits
from mcomp.deploy.packed.container import Body
from mcomp.deploy.packed.quantised_weights import QuantisedWeight, quantised_weights
from mcomp.deploy.packed.unpacking import dequantise
from mcomp.errors import StageError

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
        exact: whether the dequantised weight is the simulated one.
        max_abs_error: the largest difference to it.
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


@dataclass(frozen=True)
class Packing:
    """A packed file.

    Attributes:
        path: where it is.
        bytes: on the disk.
        tensors: of the file, weights first.
    """

    path: Path
    bytes: int
    tensors: tuple[PackedTensor, ...]

    @property
    def float_bytes(self) -> int:
        """Of the same tensors in float32."""
        return sum(tensor.float_bytes for tensor in self.tensors)

    @property
    def exact(self) -> bool:
        """Whether each weight comes back as it was simulated."""
        return all(tensor.exact for tensor in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "file": self.path.name,
            "bytes": self.bytes,
            "float_bytes": self.float_bytes,
            "exact": self.exact,
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def pack(
    model: nn.Module, path: str | Path, *, ternary: Ternary = "base3", metadata: Mapping[str, str] | None = None
) -> Packing:
    """Write the weights of ``model`` to a file: quantised ones as codes and scales, all other tensors as they are.

    A code has as many bits as the weight has levels, at most 16. :func:`mcomp.deploy.unpack` gives back the weights
    that the model multiplies with, the same float32 numbers. Latent weights of training, and its counters, stay behind.

    Args:
        model: quantised, its batch norms folded or not; not changed.
        path: of the file; replaced in full or not at all.
        ternary: how weights of three values are stored.
        metadata: names and values to keep in the header.

    Raises:
        StageError: MC471, no weight is quantised, or a tensor has a type that the format does not have; MC431, a scale
            is not a number; MC472, the file cannot be written; or a weight holds inf or nan, or has no range yet.
    """
    weights = quantised_weights(model)
    if not weights:
        raise StageError(
            "no weight of the model is quantised",
            code="MC471",
            why="packing stores integers; a float weight would take 32 bits as before",
            hint="quantise the model first: `mcomp.quantization.quantize(model, example_inputs)`",
        )
    body, header, rows = Body(), {}, []
    for weight in weights:
        header[weight.name], row = _weight(weight, body, ternary)
        rows.append(row)
    for name, tensor in _kept(model, weights):
        data, kind = _as_it_is(name, tensor)
        header[name] = {"shape": list(tensor.shape), "at": body.add(data), "type": kind}
        rows.append(PackedTensor(name, tuple(tensor.shape), kind, 0, len(data), 0, 4 * tensor.numel()))
    size = body.write(Path(path), header, dict(metadata or {}))
    return Packing(Path(path), size, tuple(rows))


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
    back = dequantise(values, scale, weight.zero_point, weight.axis)
    error = float(np.abs(back.astype(np.float64) - weight.simulated).max(initial=0.0))
    encoding = "base3" if in_fives else f"{bits}-bit"
    shape, exact = tuple(values.shape), error == 0.0
    return entry, PackedTensor(
        weight.name, shape, encoding, levels, len(data), scale_bytes, 4 * values.size, exact, error
    )


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


def _kept(model: nn.Module, weights: list[QuantisedWeight]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the state that packed weights do not stand for."""
    replaced = {name for weight in weights for name in weight.replaced}
    inside = tuple(prefix for weight in weights for prefix in weight.inside)
    for name, tensor in model.state_dict().items():
        if name in replaced or name.startswith(inside) or name.rpartition(".")[2] == _COUNTERS:
            continue
        if isinstance(tensor, Tensor):
            yield name, tensor.detach().cpu()


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
