"""Where channels are made and read: convolutions, linear layers, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mcomp.pruning.labels import varies
from mcomp.pruning.notes import Weight
from mcomp.pruning.rules import rule
from mcomp.pruning.tracing import Tracer


@rule("convolution")
def _convolution(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    x, tensor, bias = args[0], args[1], args[2]
    transposed, groups = args[6], args[8]
    weight = tracer.weight(tensor)
    if weight is None:
        return False
    depthwise = tracer.depthwise(weight.name, groups, tensor.shape[1])
    if transposed and groups > 1 and not depthwise:
        return False
    incoming = tracer.per_channel(tracer.labels_of(x), 1)
    out_axis = 1 if transposed and not depthwise else 0
    slots = tensor.shape[0] if depthwise else out.shape[1]
    if depthwise:
        filters = incoming if slots == groups else incoming.repeat_interleave(slots // groups)
        rows = tracer.reads(weight.name, "rows", out_axis, filters, 1)
    else:
        rows = tracer.site(weight.name, "rows", out_axis, slots, groups)
        tracer.reads(weight.name, "columns", 1 - out_axis, incoming, groups)
    if bias is not None:
        tracer.holds([bias], rows.labels)
    tracer.mark(out, rows.labels.reshape([-1, *[1] * (out.ndim - 2)]).expand(out.shape), compact=True)
    return True


@rule("mm", "addmm")
def _linear(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    bias, left, right = args[:3] if len(args) == 3 else (None, *args[:2])
    first, second = tracer.weight(left), tracer.weight(right)
    if first is not None and second is None and bias is None:  # weight @ x is (x.T @ weight.T).T
        if tracer.decided(_channels_ride_along(tracer, right, 0)):
            return _along_positions(tracer, [left], right, 0, out)
        rows = _rows(tracer, replace(first, transposed=not first.transposed), right, 0, None, out.shape[0])
        tracer.mark(out, rows[:, None].expand(out.shape), compact=True)
        return True
    if second is None or first is not None:
        return False
    if tracer.decided(_channels_ride_along(tracer, left, 1)):
        return _along_positions(tracer, [right] if bias is None else [right, bias], left, 1, out)
    rows = _rows(tracer, second, left, 1, bias, out.shape[1])
    tracer.mark(out, rows.expand(out.shape), compact=True)
    return True


def _channels_ride_along(tracer: Tracer, x: Tensor, dim: int) -> bool:
    """Whether ``dim``, over which a layer sums, holds positions, and the other dimension channels (MLP-Mixer)."""
    labels = tracer.labels_of(x)
    return varies(labels, 1 - dim) and not varies(labels, dim)


def _along_positions(tracer: Tracer, parameters: Sequence[Tensor], x: Tensor, dim: int, out: Any) -> bool:
    """The layer does the same to every channel: each keeps to itself, and the layer stays as it is."""
    for parameter in parameters:
        weight = tracer.weight(parameter)
        if weight is not None:
            tracer.freeze(weight.name, "works along positions, and its widths are numbers of these")
    tracer.mark(out, tracer.labels_of(x).narrow(dim, 0, 1).expand(out.shape))
    return True


def _rows(tracer: Tracer, weight: Weight, x: Tensor, dim: int, bias: Tensor | None, slots: int) -> Tensor:
    """``[slots]`` labels of what ``weight``, makes of ``x`` along its dimension ``dim``."""
    out_axis = 0 if weight.transposed else 1
    incoming = tracer.per_channel(tracer.labels_of(x), dim)
    rows = tracer.site(weight.name, "rows", out_axis, weight.count or slots, 1).labels
    if weight.rows is not None:
        rows = rows[weight.rows[0] : weight.rows[1]]
    tracer.reads(weight.name, "columns", 1 - out_axis, incoming, 1)
    if bias is not None:
        tracer.holds([bias], rows)
    return rows


@rule("embedding")
def _embedding(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    weight = tracer.weight(args[0])
    if weight is None or weight.transposed:
        return False
    rows = tracer.site(weight.name, "rows", 1, out.shape[-1], 1)
    tracer.mark(out, rows.labels.expand(out.shape), compact=True)
    return True
