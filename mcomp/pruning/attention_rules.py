"""Matrix products of two activations: where attention meets queries with keys, and weights with values.

In ``scores = q @ k`` the sum runs over the channels of a head: a channel of ``q`` goes with that of ``k``, and each
head must keep as many. In ``scores @ v`` each head hands on its own channels. Whether single channels of every head go
or whole heads, the tracer decides (:attr:`Tracer.heads`); then the scores carry a label for each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcomp.pruning.labels import SETTLED, varies
from mcomp.pruning.rules import rule
from mcomp.pruning.tracing import Tracer


@rule("bmm", "baddbmm")
def _product(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """``(B, M, K) @ (B, K, N)``, where at most one of M, K and N holds channels."""
    added, left, right = args[:3] if len(args) == 3 else (None, *args[:2])
    if tracer.weight(left) is not None or tracer.weight(right) is not None:
        return False
    a, b = tracer.labels_of(left), tracer.labels_of(right).transpose(1, 2)  # (B, M, K) and (B, N, K)
    # a head that pruning leaves with one channel is summed over like any other
    holds = [tracer.decided(found) for found in (varies(a, 1), varies(b, 1), varies(a, 2) or varies(b, 2))]
    if sum(holds) > 1 or (tracer.heads == "dims" and not holds[2] and not _plain(b if holds[0] else a)):
        return False
    found = _summed(tracer, a, b) if holds[2] else _carried(tracer, a, b, rows=holds[0])
    if added is not None:
        labels = tracer.labels_of(added).broadcast_to(out.shape)
        tracer.space.couple(labels, found.expand(out.shape))
    tracer.mark(out, found.expand(out.shape))
    if holds[2]:
        tracer.mark_queries(out, a)
    return True


def _summed(tracer: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """Over channels: those that are multiplied go together. ``[batch, 1, 1]`` labels of the scores."""
    a, b = a[:, :1], b[:, :1]
    tracer.space.couple(a, b)
    met = torch.where(a > SETTLED, a, b)  # [batch, 1, channels]
    return _heads(tracer, met)


def _carried(tracer: Tracer, a: Tensor, b: Tensor, rows: bool) -> Tensor:
    """Over positions: the channels of one side go through, each under the scores of its head."""
    carrier, scores = (a[:, :, :1], b[:, :1, :1]) if rows else (b[:, :, :1], a[:, :1, :1])
    if tracer.heads == "whole":
        tracer.space.couple(carrier, scores)
        tracer.space.couple(carrier, carrier[:, :1])
        carrier = torch.where(carrier > SETTLED, carrier, scores)
    else:
        _heads(tracer, carrier.transpose(1, 2))
    return carrier if rows else carrier.transpose(1, 2)


def _heads(tracer: Tracer, labels: Tensor) -> Tensor:
    """Note that ``labels``, ``[batch, 1, channels]``, are the channels of heads; the label of each head's scores."""
    if tracer.heads == "whole":
        tracer.space.couple(labels, labels[:, :, :1])
        return labels[:, :, :1]
    flat = labels[:, 0]
    if varies(flat, 0):
        seen: dict[int, int] = {}
        for index, first in enumerate(flat[:, 0].tolist()):
            seen.setdefault(first, index)
        distinct_heads = flat[list(seen.values())]
        tracer.shares(distinct_heads.flatten(), len(distinct_heads))
    else:
        tracer.shares(flat[0], 1)
    return labels.new_full([1, 1, 1], SETTLED)


def _plain(scores: Tensor) -> bool:
    """Whether what weights the channels of the other side is of no channel itself."""
    return not bool((scores[:, :1, :1] > SETTLED).any())
