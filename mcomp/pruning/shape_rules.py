"""Channel labels through ops that move elements: views, permutations, concatenations, splits, indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.pruning.labels import SETTLED, compressed, distinct, narrowed, varies
from mcomp.pruning.notes import Weight
from mcomp.pruning.rules import rule
from mcomp.pruning.tracing import Tracer


@rule("permute", "unsqueeze", "squeeze", "expand", "flip", "roll", "repeat", "cat", "stack", "unfold", "diagonal")
@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _reshaped(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """The op itself, on labels instead of values."""
    labels = tree_map(lambda leaf: tracer.labels_of(leaf) if isinstance(leaf, Tensor) else leaf, list(args))
    tracer.mark(out, func(*labels, **kwargs))
    return True


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _viewed(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    if func._overloadname == "dtype":
        return False
    tracer.mark(out, tracer.labels_of(args[0]).reshape(out.shape))
    return True


@rule("as_strided_")
def _restrided(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Global pooling restrides its ``(N, C, 1, 1)`` result for channels-last inputs; the order of elements stays."""
    labels = tracer.labels_of(args[0])
    return bool(out.ndim > 2 and out[0, 0].numel() == 1 and labels.shape == out.shape and out.is_contiguous())


@rule("slice", "select", "split", "split_with_sizes", "unbind", "narrow", "index_select", "index", "chunk")
@rule("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
def _pieces(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Labels are cut like values; which channels fell into which piece is noted where they differ."""
    if any(leaf.is_meta for leaf in tree_leaves((args[1:], kwargs)) if isinstance(leaf, Tensor)):
        return False  # nobody knows which elements it takes
    if tracer.weight(args[0]) is not None and args[0].ndim == 2 and func.overloadpacket.__name__ in _CUTS:
        return _rows_of_weight(tracer, args[0], out, args[1:], kwargs)
    labels = tracer.labels_of(args[0])
    cut = func(labels, *args[1:], **kwargs)
    for tensor, piece in [(out, cut)] if isinstance(out, Tensor) else zip(out, cut, strict=True):
        tracer.mark(tensor, piece)
    _note_split(tracer, labels, [cut] if isinstance(cut, Tensor) else cut)
    return True


def _note_split(tracer: Tracer, labels: Tensor, pieces: Sequence[Tensor]) -> None:
    """Note which of these channels fell into each piece."""
    all_of_it = distinct(narrowed(labels)).numel()
    parts: list[Tensor | None] = []
    for piece in pieces:
        slots = narrowed(compressed(piece)).flatten()
        told = 0 < distinct(slots).numel() < all_of_it  # an empty piece says nothing
        parts.append(slots[slots > SETTLED] if told else None)
    tracer.pieces(parts)


@rule("glu")
def _gated(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """The second half of the channels gates the first, one by one."""
    labels = tracer.labels_of(args[0])
    halves = labels.chunk(2, args[1] if len(args) > 1 else kwargs.get("dim", -1))
    _note_split(tracer, labels, halves)
    values, gates = halves
    tracer.space.couple(values, gates)
    tracer.mark(out, torch.where(values > SETTLED, values, gates), compact=True)
    return True


#: Ops that take rows that lie beside one another.
_CUTS = frozenset({"slice", "split", "split_with_sizes", "narrow", "chunk", "unsafe_split", "unsafe_chunk"})


def _rows_of_weight(tracer: Tracer, tensor: Tensor, out: Any, options: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Some rows of a matrix that is several layers in one."""
    weight = tracer.weight(tensor)
    pieces = [out] if isinstance(out, Tensor) else list(out)
    if weight is None or weight.transposed or weight.rows is not None:
        return False
    if any(piece.ndim != 2 or piece.shape[1] != tensor.shape[1] for piece in pieces):
        return False
    start = int(pieces[0].storage_offset() - tensor.storage_offset()) // tensor.shape[1]
    for piece in pieces:
        tracer.mark_view(piece, Weight(weight.name, rows=(start, start + len(piece)), count=len(tensor)))
        start += len(piece)
    return True


@rule("index_put_", "index_put")
def _put(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Whole samples that are put into their places among the samples of a batch."""
    target, indices, values = args[:3]
    whole, put = tracer.labels_of(target), tracer.labels_of(values)
    lines = len(indices) == 1 and indices[0] is not None and indices[0].ndim == 1 and values.ndim == target.ndim
    if not lines or varies(whole, 0) or varies(put, 0) or put.shape[1:] != whole.shape[1:]:
        return False
    tracer.space.couple(whole[:1], put[:1])
    first = torch.where(whole[:1] > SETTLED, whole[:1], put[:1])
    tracer.mark(out, first.expand(out.shape))
    return True


@rule("new_empty", "sym_size", "is_same_size")
def _unrelated(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """The result takes type and device from its argument, nothing else."""
    return True
