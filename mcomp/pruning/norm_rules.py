"""Normalisation: every channel stays its own; the statistics are those of the channels that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.labels import NONE
from mcomp.pruning.rules import rule
from mcomp.pruning.tracing import Tracer


@rule("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit")
@rule("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update")
@rule("_native_batch_norm_legit_functional")
def _batch_norm(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    channels = tracer.per_channel(labels, 1)
    tracer.holds(args[1:5], channels)
    gamma = tracer.weight(args[1]) if args[1] is not None else None
    if gamma is not None:
        tracer.gamma(gamma.name)
    tracer.mark(out[0], labels, compact=True)
    return True


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    for vector in args[2:4]:
        if isinstance(vector, Tensor):
            if tracer.is_new_table(vector):
                tracer.adopt(vector, [labels.stride(dim) != 0 for dim in range(labels.ndim - vector.ndim, labels.ndim)])
            tracer.space.couple(labels, tracer.labels_of(vector))
    _statistics(tracer, labels, out)
    return True


@rule("native_group_norm")
def _group_norm(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels, groups = tracer.labels_of(args[0]), args[6]
    channels = tracer.per_channel(labels, 1)
    vectors = [vector for vector in args[1:3] if isinstance(vector, Tensor)]
    tracer.holds(vectors, channels)
    for vector in vectors:
        tracer.in_groups(vector, groups)
    if not vectors:
        tracer.shares(channels, groups)
    _statistics(tracer, labels, out)
    return True


def _statistics(tracer: Tracer, labels: Tensor, out: Any) -> None:
    """The result has the channels of its input; mean and deviation have none."""
    first, *rest = [result for result in tree_leaves(out) if isinstance(result, Tensor)]
    tracer.mark(first, labels, compact=True)
    for statistic in rest:
        tracer.mark(statistic, labels.new_full([1] * statistic.ndim, NONE).expand(statistic.shape))
