"""Mean and variance over channels: statistics of a normalisation, taken over the channels that are there.

PyTorch's own norms have rules; people write others by hand, ``x * rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)``. A
mean over channels is taken for such a statistic as long as it only meets numbers and the very channels that it was
taken over. Used for anything else (an attention map over positions, say), it keeps its channels whole: with some of
them gone it would be another mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.labels import SETTLED, distinct, narrowed
from mcomp.pruning.operator_names import as_written

if TYPE_CHECKING:
    from mcomp.pruning.tracing import Tracer

#: Reductions that are statistics.
STATISTICS = frozenset({"mean", "var", "std", "var_mean"})

_OF_NUMBERS = frozenset({"add", "sub", "mul", "div", "rsqrt", "sqrt", "pow", "reciprocal", "clamp", "clamp_min", "neg"})
_OF_SHAPES = frozenset({"unsqueeze", "squeeze", "view", "expand", "_to_copy", "clone", "reshape", "_unsafe_view"})
_WITH_CHANNELS = frozenset({"add", "sub", "mul", "div"})


def mark_statistics(tracer: Tracer, labels: Tensor, out: Any) -> None:
    """The results are statistics over all channels in ``labels``."""
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            tracer.mark(result, torch.full([1] * result.ndim, SETTLED).expand(result.shape), compact=True)
            tracer.mark_statistic(result, labels)


def follow_statistics(tracer: Tracer, name: str, tensors: Sequence[Tensor], out: Any) -> None:
    """See what a statistic is used for."""
    origins = [tracer.statistic(tensor) for tensor in tensors]
    origin = next((found for found in origins if found is not None), None)
    if origin is None:
        return
    plain = name.removesuffix("_")
    others = [
        tensor for tensor, found in zip(tensors, origins, strict=True) if found is not origin and tensor.numel() > 1
    ]
    if not others and isinstance(out, Tensor) and (plain in _OF_NUMBERS or plain in _OF_SHAPES):
        tracer.mark_statistic(out, origin)
    elif plain not in _WITH_CHANNELS or not all(_same_channels(tracer.labels_of(tensor), origin) for tensor in others):
        where = f" in `{tracer.module}`" if tracer.module else ""
        tracer.space.fix(origin, f"has a mean over its channels, which `{as_written(name)}`{where} uses")


def _same_channels(labels: Tensor, origin: Tensor) -> bool:
    mine, theirs = distinct(narrowed(labels)), distinct(narrowed(origin))
    return torch.equal(mine[mine > SETTLED], theirs[theirs > SETTLED])
