"""Mean and variance over channels: statistics of a normalisation, taken over the channels that are there.

PyTorch's own norms have rules; people write others by hand, ``x * rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)``. A
mean over channels is taken for such a statistic as long as it only meets numbers, is taken away from the very channels
that it was taken over, or divides them. Used for anything else (a gate, an attention map over positions), it keeps its
channels whole: with some of them gone it would be another mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.labels import SETTLED, distinct, narrowed
from mcomp.pruning.notes import Statistic
from mcomp.pruning.operator_names import as_written
from mcomp.pruning.value_free import plain_number

if TYPE_CHECKING:
    from mcomp.pruning.tracing import Tracer

#: Reductions that are statistics.
STATISTICS = frozenset({"mean", "var", "std", "var_mean"})

_OF_NUMBERS = frozenset({"add", "sub", "mul", "div", "rsqrt", "sqrt", "pow", "reciprocal", "clamp", "clamp_min", "neg"})
_OF_SHAPES = frozenset({"unsqueeze", "squeeze", "view", "expand", "_to_copy", "clone", "reshape", "_unsafe_view"})

#: Ops that turn a mean into one by it, or the other way round.
_INVERTING = frozenset({"rsqrt", "reciprocal"})


def mark_statistics(tracer: Tracer, labels: Tensor, out: Any) -> None:
    """The results are statistics over all channels in ``labels``."""
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            tracer.mark(result, torch.full([1] * result.ndim, SETTLED).expand(result.shape), compact=True)
            tracer.mark_statistic(result, Statistic(labels))


def follow_statistics(tracer: Tracer, name: str, args: Sequence[Any], tensors: Sequence[Tensor], out: Any) -> None:
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
        tracer.mark_statistic(out, replace(origin, inverse=origin.inverse != _inverts(plain, args)))
    elif not _normalises(plain, origin, origins) or not all(
        _same_channels(tracer.labels_of(tensor), origin.labels) for tensor in others
    ):
        where = f" in `{tracer.module}`" if tracer.module else ""
        tracer.space.fix(origin.labels, f"has a mean over its channels, which `{as_written(name)}`{where} uses")


def _inverts(name: str, args: Sequence[Any]) -> bool:
    exponent = plain_number(args[1]) if name == "pow" and len(args) > 1 else None
    return name in _INVERTING or (exponent is not None and exponent < 0)


def _normalises(name: str, origin: Statistic, operands: Sequence[Statistic | None]) -> bool:
    """Whether channels are centred by their mean, or scaled by one by it."""
    behind = operands[0] is None  # the channels come first: ``x - mean``, ``x / deviation``
    return (name in ("sub", "div") and behind and not origin.inverse) or (name == "mul" and origin.inverse)


def _same_channels(labels: Tensor, origin: Tensor) -> bool:
    mine, theirs = distinct(narrowed(labels)), distinct(narrowed(origin))
    return torch.equal(mine[mine > SETTLED], theirs[theirs > SETTLED])
