"""Channel labels through elementwise arithmetic, dropout and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.labels import SETTLED, lowest, varies
from mcomp.pruning.operator_names import as_written
from mcomp.pruning.rules import rule
from mcomp.pruning.tracing import Tracer


@rule("add", "copy_", "fill_", "zero_", "_to_copy", "clone", "detach", "alias", "lift_fresh", "contiguous", "hardswish")
@rule("bernoulli_", "uniform_", "normal_", "hardswish_", "_prelu_kernel", "rand_like", "randn_like", "masked_fill")
@rule("lift_fresh_copy", "dropout", "gelu", "where", "empty_like")
def pointwise(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    """Elements that meet stay together; one that is spread over several channels cannot go with any of them."""
    if not isinstance(out, Tensor):
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)] if kwargs else _tensors(args)
    if len(tensors) == 1:
        if tracer.weight(tensors[0]) is not None and torch.Tag.pointwise not in func.tags:
            return view_of_weight(tracer, tensors[0], out, swap=False)
        tracer.mark(out, tracer.labels_of(tensors[0]).broadcast_to(out.shape), compact=True)
        return True
    operands = _operands(tracer, tensors, out.shape)
    if _joins_what_is_settled(tracer, tensors, operands, out):
        tracer.mark(out, torch.full([1] * out.ndim, SETTLED).expand(out.shape))
        return True
    carried: Tensor | None = None
    for index, labels in enumerate(operands):
        spread = labels.broadcast_to(out.shape)
        if any(_is_spread(labels, spread, other) for other in [*operands[:index], *operands[index + 1 :]]):
            tracer.space.fix(labels, f"is spread over other channels by `{as_written(func.overloadpacket.__name__)}`")
        elif carried is None:
            carried = spread
        else:
            tracer.space.couple(carried, spread)
            carried = _filled(carried, spread)
    if carried is None:
        return False
    tracer.mark(out, carried, compact=True)
    return True


@rule("exp", "exp_", "exp2", "exp2_")
def _exponential(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    followed = pointwise(tracer, func, args, kwargs, out)
    tracer.mark_exponential(out)
    return followed


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """Every tensor among the arguments."""
    if any(isinstance(value, list | tuple | dict) for value in args):
        return [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    return [value for value in args if isinstance(value, Tensor)]


def _joins_what_is_settled(tracer: Tracer, tensors: Sequence[Tensor], operands: Sequence[Tensor], out: Tensor) -> bool:
    """Whether one operand is of no channel, and whatever the others hold is not spread over channels by it.

    To the scores of attention a bias for each head is added: parameters are then of no channel either, and what a layer
    makes has to stay as it is.
    """
    if len(operands) < 2:
        return False
    known = [tracer.settled(labels) for labels in operands]
    if not any(known):
        return False
    settled = [tensor for tensor, is_settled in zip(tensors, known, strict=True) if is_settled]
    others = [
        labels
        for labels, is_settled in zip(operands, known, strict=True)
        if not is_settled and not tracer.of_parameters(labels)
    ]
    if not all(_meets(labels.broadcast_to(out.shape), settled) for labels in others):
        return False
    for labels in others:
        tracer.space.fix(labels, f"is a value for each head of the attention in `{tracer.module or 'forward'}`")
    return True


def _meets(spread: Tensor, settled: Sequence[Tensor]) -> bool:
    """Whether something settled has values of its own along every dimension along which the labels differ.

    A norm over the channels of each head differs from head to head, and is spread over the channels.
    """
    dims = [dim for dim in range(spread.ndim) if varies(spread, dim)]
    return any(all(_is_own(tensor, dim - spread.ndim) for dim in dims) for tensor in settled)


def _is_own(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor has a value for each place along ``dim``, counted from the last, -1."""
    return -dim <= tensor.ndim and tensor.shape[dim] > 1 and tensor.stride(dim) != 0


def _operands(tracer: Tracer, tensors: Sequence[Tensor], shape: torch.Size) -> list[Tensor]:
    """The labels of each; a table of parameters gets one per channel of what it meets, not one per element."""
    tables = [tensor for tensor in tensors if tracer.is_new_table(tensor)]
    if not tables or len(tables) == len(tensors):
        return [tracer.labels_of(tensor) for tensor in tensors]
    met = [tracer.labels_of(tensor) for tensor in tensors if not tracer.is_new_table(tensor)]
    varying = [any(varies(labels.broadcast_to(shape), dim) for labels in met) for dim in range(len(shape))]
    for table in tables:
        tracer.adopt(table, varying[len(shape) - table.ndim :])
    return [tracer.labels_of(tensor) for tensor in tensors]


def _filled(carried: Tensor, other: Tensor) -> Tensor:
    """``carried``, and where that is of no channel, ``other``."""
    if lowest(carried) > SETTLED:
        return carried
    return torch.where(carried > SETTLED, carried, other)


def _is_spread(labels: Tensor, spread: Tensor, other: Tensor) -> bool:
    """Whether ``labels`` has one slot along a dimension where ``other`` has several channels."""
    shift = spread.ndim - labels.ndim
    for dim in range(spread.ndim):
        single = dim < shift or labels.shape[dim - shift] == 1
        own = dim - spread.ndim + other.ndim
        if single and own >= 0 and other.shape[own] > 1 and varies(other, own):
            return True
    return False


@rule("native_dropout", "alpha_dropout")
def _dropout(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    labels = tracer.labels_of(args[0])
    for result in tree_leaves(out):
        tracer.mark(result, labels)
    return True


@rule("t", "transpose")
def _transpose(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
    if args[0].ndim == 2 and tracer.weight(args[0]) is not None:
        return view_of_weight(tracer, args[0], out, swap=True)
    tracer.mark(out, func(tracer.labels_of(args[0]), *args[1:], **kwargs))
    return True


def view_of_weight(tracer: Tracer, source: Tensor, out: Tensor, swap: bool) -> bool:
    """``out`` is the weight that ``source`` is, or that one transposed."""
    weight = tracer.weight(source)
    assert weight is not None
    tracer.mark_view(out, replace(weight, transposed=weight.transposed != swap))
    return True
