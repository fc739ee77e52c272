"""Ops over positions: pooling, resizing, padding, reductions, regions of interest. None of them mixes channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.elementwise_rules import pointwise
from mcomp.pruning.labels import SETTLED, varies
from mcomp.pruning.rules import rule
from mcomp.pruning.statistics_rules import STATISTICS, mark_statistics
from mcomp.pruning.tracing import Tracer

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
        "fractional_max_pool{n}d",
        "upsample_nearest{n}d",
        "_upsample_nearest_exact{n}d",
        "reflection_pad{n}d",
        "replication_pad{n}d",
    )
}
_SPATIAL |= {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3}
_SPATIAL |= {"_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "grid_sampler_2d": 2, "grid_sampler_3d": 3}


@rule(*_SPATIAL)
def _spatial(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    count = _SPATIAL[func.overloadpacket.__name__]
    return _over(tracer, labels, range(labels.ndim - count, labels.ndim), out)


@rule("roi_align", "roi_pool")
def _regions(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Patches of ``(N, C, H, W)`` features at ``(K, 5)`` boxes: ``(K, C, h, w)``."""
    channels = tracer.per_channel(tracer.labels_of(args[0]), 1)
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            tracer.mark(result, channels[:, None, None].expand(result.shape))
    return True


@rule("constant_pad_nd")
def _pad(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels, padding = tracer.labels_of(args[0]), args[1]
    padded = [labels.ndim - 1 - i for i in range(len(padding) // 2) if padding[2 * i] or padding[2 * i + 1]]
    if any(varies(labels, dim) for dim in padded):
        return False
    return _over(tracer, labels, padded, out)


#: Reductions to which a channel of zeros adds nothing.
SUMS = frozenset({"sum", "linalg_vector_norm"})


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "any", "linalg_vector_norm", "_softmax", "cumsum")
@rule("_log_softmax", "logsumexp", "argmax", "var_mean", "_safe_softmax", "prod", "all", "cumprod")
def _reduced(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Over positions, each channel keeps to itself; over channels, those that are mixed stay or go together."""
    labels = tracer.labels_of(args[0])
    if isinstance(args[1] if len(args) > 1 else None, Tensor):
        return pointwise(tracer, func, args, kwargs, out)
    place = 2 if func.overloadpacket.__name__ == "linalg_vector_norm" else 1
    given = args[place] if len(args) > place else kwargs.get("dim")
    dims = [given] if isinstance(given, int) else given
    positive = [dim % max(labels.ndim, 1) for dim in dims] if dims else list(range(labels.ndim))
    over_channels = any(varies(labels, dim) for dim in positive)
    # sub-pixels have channels of their own, and a mean over positions is none of a norm
    elsewhere = len(positive) > 1 and any(varies(labels, dim) for dim in range(labels.ndim) if dim not in positive)
    over_channels = tracer.decided(over_channels and not elsewhere)
    if func.overloadpacket.__name__ in STATISTICS and over_channels:
        mark_statistics(tracer, labels, out)
        return True
    adds_nothing = func.overloadpacket.__name__ in SUMS and not tracer.exponential(args[0])  # else it is a softmax
    if adds_nothing and tracer.heads == "dims" and over_channels:
        tracer.mark(out, torch.full([1] * out.ndim, SETTLED).expand(out.shape))  # zeros add nothing: it reads them
        return True
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
            tracer.mark(result, kept.expand(result.shape), compact=True)
    return True
