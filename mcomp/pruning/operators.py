"""What each ATen op does to channel labels.

An op without a rule leaves whatever reaches it whole: its channels are never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.pruning.labels import compressed, distinct, narrowed, varies
from mcomp.pruning.tracing import Tracer, Weight

Rule = Callable[[Tracer, Any, Sequence[Any], dict[str, Any], Any], bool]

_RULES: dict[str, Rule] = {}


def follow(tracer: Tracer, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], out: Any) -> None:
    """Give the results of one op their labels."""
    name = func.overloadpacket.__name__
    rule = _RULES.get(name)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = _pointwise
    if rule is None or not rule(tracer, func, args, kwargs, out):
        _opaque(tracer, name, tensors, out)


def _opaque(tracer: Tracer, name: str, tensors: list[Tensor], out: Any) -> None:
    where = f" in `{tracer.module}`" if tracer.module else ""
    reason = f"reaches `{name}`{where}, through which channels are not followed"
    for tensor in tensors:
        weight = tracer.weight(tensor)
        if weight is not None:
            tracer.freeze(weight.name, reason)
        else:
            tracer.space.fix(tracer.labels_of(tensor), reason)
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            tracer.mark(result, tracer.space.opaque(result.shape, reason))


def _rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorate the rule of these ops; it returns False where it cannot follow, having changed nothing."""

    def register(rule: Rule) -> Rule:
        for name in names:
            _RULES[name] = rule
        return rule

    return register


@_rule("copy_", "fill_", "zero_", "_to_copy", "clone", "detach", "alias", "lift_fresh", "contiguous", "hardswish")
@_rule("bernoulli_", "uniform_", "normal_", "hardswish_", "_prelu_kernel", "zeros_like", "ones_like")
@_rule("full_like", "empty_like", "rand_like", "randn_like")
def _pointwise(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Elements that meet stay together; one that is spread over several channels cannot go with any of them."""
    if not isinstance(out, Tensor):
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len(tensors) == 1 and tracer.weight(tensors[0]) is not None and torch.Tag.pointwise not in func.tags:
        return _view_of_weight(tracer, tensors[0], out, swap=False)
    operands = [tracer.labels_of(tensor) for tensor in tensors]
    carried: Tensor | None = None
    for index, labels in enumerate(operands):
        spread = labels.broadcast_to(out.shape)
        if any(_is_spread(labels, spread, other) for other in [*operands[:index], *operands[index + 1 :]]):
            tracer.space.fix(labels, f"is spread over other channels by `{func.overloadpacket.__name__}`")
        elif carried is None:
            carried = spread
        else:
            tracer.space.couple(carried, spread)
    if carried is None:
        return False
    tracer.mark(out, carried)
    return True


def _is_spread(labels: Tensor, spread: Tensor, other: Tensor) -> bool:
    """Whether ``labels`` has one slot along a dimension where ``other`` has several channels."""
    shift = spread.ndim - labels.ndim
    for dim in range(spread.ndim):
        single = dim < shift or labels.shape[dim - shift] == 1
        own = dim - spread.ndim + other.ndim
        if single and own >= 0 and other.shape[own] > 1 and varies(other, own):
            return True
    return False


@_rule("native_dropout", "alpha_dropout")
def _dropout(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    for result in tree_leaves(out):
        tracer.mark(result, labels)
    return True


@_rule("t", "transpose")
def _transpose(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    if args[0].ndim == 2 and tracer.weight(args[0]) is not None:
        return _view_of_weight(tracer, args[0], out, swap=True)
    return _reshaped(tracer, func, args, kwargs, out)


def _view_of_weight(tracer: Tracer, source: Tensor, out: Tensor, swap: bool) -> bool:
    weight = tracer.weight(source)
    assert weight is not None
    tracer.mark_view(out, Weight(weight.name, weight.transposed != swap))
    return True


@_rule("permute", "unsqueeze", "squeeze", "expand", "flip", "roll", "repeat", "cat", "stack")
@_rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _reshaped(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """The op itself, on labels instead of values."""
    labels = tree_map(lambda leaf: tracer.labels_of(leaf) if isinstance(leaf, Tensor) else leaf, list(args))
    tracer.mark(out, func(*labels, **kwargs))
    return True


@_rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _viewed(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    if func._overloadname == "dtype":
        return False
    tracer.mark(out, tracer.labels_of(args[0]).reshape(out.shape))
    return True


@_rule("as_strided_")
def _restrided(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Global pooling restrides its ``(N, C, 1, 1)`` result for channels-last inputs; the order of elements stays."""
    labels = tracer.labels_of(args[0])
    return bool(out.ndim > 2 and out[0, 0].numel() == 1 and labels.shape == out.shape and out.is_contiguous())


@_rule("slice", "select", "split", "split_with_sizes", "unbind", "narrow", "index_select", "index", "chunk")
@_rule("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
def _pieces(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Labels are cut like values; which channels fell into which piece is noted where they differ."""
    labels = tracer.labels_of(args[0])
    cut = func(labels, *args[1:], **kwargs)
    all_of_it = distinct(narrowed(labels)).numel()
    results = [(out, cut)] if isinstance(out, Tensor) else list(zip(out, cut, strict=True))
    parts: list[Tensor | None] = []
    for tensor, piece in results:
        tracer.mark(tensor, piece)
        slots = narrowed(compressed(piece)).flatten()
        parts.append(slots if distinct(slots).numel() < all_of_it else None)
    tracer.pieces(parts)
    return True


@_rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    x, tensor, bias = args[0], args[1], args[2]
    transposed, groups = args[6], args[8]
    weight = tracer.weight(tensor)
    if func.overloadpacket.__name__ != "convolution" or weight is None or (transposed and groups > 1):
        return False
    incoming = tracer.per_channel(tracer.labels_of(x), 1)
    out_axis = 1 if transposed else 0
    depthwise = tracer.depthwise(weight.name, groups, tensor.shape[1])
    rows = tracer.site(weight.name, "rows", out_axis, out.shape[1], 1 if depthwise else groups)
    if depthwise:
        tracer.space.couple(rows.labels.reshape(groups, -1), incoming[:, None])
    else:
        columns = tracer.site(weight.name, "columns", 1 - out_axis, incoming.numel(), groups)
        tracer.space.couple(columns.labels, incoming)
    if bias is not None:
        tracer.space.couple(tracer.labels_of(bias), rows.labels)
    tracer.mark(out, rows.labels.reshape([-1, *[1] * (out.ndim - 2)]).expand(out.shape))
    return True


@_rule("mm", "addmm")
def _linear(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    bias, x, tensor = args[:3] if len(args) == 3 else (None, *args[:2])
    weight = tracer.weight(tensor)
    if weight is None or tracer.weight(x) is not None:
        return False
    out_axis = 0 if weight.transposed else 1
    incoming = tracer.per_channel(tracer.labels_of(x), 1)
    rows = tracer.site(weight.name, "rows", out_axis, out.shape[1], 1)
    columns = tracer.site(weight.name, "columns", 1 - out_axis, incoming.numel(), 1)
    tracer.space.couple(columns.labels, incoming)
    if bias is not None:
        tracer.space.couple(tracer.labels_of(bias), rows.labels)
    tracer.mark(out, rows.labels.expand(out.shape))
    return True


@_rule("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit")
@_rule("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update")
def _batch_norm(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    channels = tracer.per_channel(labels, 1)
    for vector in args[1:5]:
        if isinstance(vector, Tensor):
            tracer.space.couple(tracer.labels_of(vector), channels)
    gamma = tracer.weight(args[1]) if args[1] is not None else None
    if gamma is not None:
        tracer.gamma(gamma.name)
    tracer.mark(out[0], labels)
    return True


#: Ops that work on the last dimensions only, and on how many.
_SPATIAL = {
    name.format(n=n): n
    for n in (1, 2, 3)
    for name in (
        "avg_pool{n}d",
        "adaptive_avg_pool{n}d",
        "_adaptive_avg_pool{n}d",
        "adaptive_max_pool{n}d",
        "max_pool{n}d",
        "max_pool{n}d_with_indices",
        "mkldnn_max_pool{n}d",
        "upsample_nearest{n}d",
        "_upsample_nearest_exact{n}d",
        "reflection_pad{n}d",
        "replication_pad{n}d",
    )
}
_SPATIAL |= {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3}


@_rule(*_SPATIAL)
def _spatial(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Pooling, resizing and padding mix positions, never channels."""
    labels = tracer.labels_of(args[0])
    count = _SPATIAL[func.overloadpacket.__name__]
    return _over(tracer, labels, range(labels.ndim - count, labels.ndim), out)


@_rule("constant_pad_nd")
def _pad(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels, padding = tracer.labels_of(args[0]), args[1]
    padded = [labels.ndim - 1 - i for i in range(len(padding) // 2) if padding[2 * i] or padding[2 * i + 1]]
    if any(varies(labels, dim) for dim in padded):
        return False
    return _over(tracer, labels, padded, out)


@_rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "any", "linalg_vector_norm", "_softmax", "cumsum")
@_rule("_log_softmax", "logsumexp", "argmax", "var_mean")
def _reduced(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Over positions, each channel keeps to itself; over channels, those that are mixed stay or go together."""
    labels = tracer.labels_of(args[0])
    if isinstance(args[1] if len(args) > 1 else None, Tensor):
        return _pointwise(tracer, func, args, kwargs, out)
    place = 2 if func.overloadpacket.__name__ == "linalg_vector_norm" else 1
    given = args[place] if len(args) > place else kwargs.get("dim")
    dims = [given] if isinstance(given, int) else given
    positive = [dim % max(labels.ndim, 1) for dim in dims] if dims else list(range(labels.ndim))
    return _over(tracer, labels, positive, out)


def _over(tracer: Tracer, labels: Tensor, dims: Sequence[int], out: Any) -> bool:
    """Mark results that have the labels of ``labels`` with ``dims`` resized, or reduced away."""
    for dim in dims:
        first = labels.narrow(dim, 0, 1)
        if varies(labels, dim):
            tracer.space.couple(labels, first)
        labels = first
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            kept = labels
            if result.ndim < labels.ndim:
                kept = labels.reshape([size for dim, size in enumerate(labels.shape) if dim not in dims])
            tracer.mark(result, kept.expand(result.shape))
    return True


@_rule("new_zeros", "new_ones", "new_full", "new_empty", "sym_size", "is_same_size")
def _unrelated(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """The result takes type and device from its argument, nothing else."""
    return True
