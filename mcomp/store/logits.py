"""What a model answers to a fixed input: proof that a model read back is the one that was written."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from mcomp.store.tensors import content_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

_KEPT = 4096


class InputSpec(TypedDict):
    """One input of a model: a sample's shape, without the batch, and its dtype."""

    shape: list[int]
    dtype: str


def input_spec(example: Tensor) -> InputSpec:
    """The spec of an example input, a batch of samples."""
    return {"shape": list(example.shape[1:]), "dtype": str(example.dtype).removeprefix("torch.")}


def seeded_inputs(inputs: list[InputSpec]) -> tuple[Tensor, ...]:
    """A batch of two for every input: float values in [-2, 2), the same on every machine; integer inputs are zero.

    The values are made with integers: ``torch.randn`` differs in the last bit between CPUs.
    """
    import torch

    made = []
    for order, spec in enumerate(inputs):
        dtype = getattr(torch, spec["dtype"])
        shape = torch.Size((2, *spec["shape"]))
        if not dtype.is_floating_point:
            made.append(torch.zeros(shape, dtype=dtype))
            continue
        bits = (torch.arange(shape.numel(), dtype=torch.int64) + 7919 * (order + 1)) * 2654435761 & 0xFFFFFFFF
        for shift, factor in ((15, 2246822519), (13, 3266489917)):
            bits = (bits ^ (bits >> shift)) * factor & 0xFFFFFFFF
        made.append(((bits >> 16).to(torch.float32) / 2**14 - 2).to(dtype).reshape(shape))
    return tuple(made)


def fingerprint(model: nn.Module, inputs: list[InputSpec]) -> dict[str, Any]:
    """``{"digest", "values", "dtype"}`` of the model's answer to :func:`seeded_inputs`."""
    found = _answer(model, inputs)
    return {
        "digest": content_digest(found),
        "values": found[:_KEPT].double().tolist(),
        "dtype": str(found.dtype).removeprefix("torch."),
    }


def relative_error(model: nn.Module, inputs: list[InputSpec], then: dict[str, Any]) -> float:
    """``max|now - then| / max|then|`` against a :func:`fingerprint`; 0 when every bit agrees, NaN agrees with NaN."""
    import torch

    found = _answer(model, inputs)
    if content_digest(found) == then["digest"]:
        return 0.0
    now = found[:_KEPT].double()
    before = torch.tensor([float(value) for value in then["values"]], dtype=torch.float64)
    if now.shape != before.shape:
        return float("inf")
    differences = torch.where((now == before) | (now.isnan() & before.isnan()), 0.0, (now - before).abs())
    finite = before[before.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return float(differences.nan_to_num(nan=float("inf")).max()) / max(scale, 1e-12)


def _answer(model: nn.Module, inputs: list[InputSpec]) -> Tensor:
    """The output of a copy of ``model``, on the CPU, in eval mode, without autocast, flat."""
    import torch

    twin = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        output = twin(*seeded_inputs(inputs))
    return torch.cat([tensor.reshape(-1) for tensor in _leaves(output)])


def _leaves(output: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _leaves(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _leaves(value)
