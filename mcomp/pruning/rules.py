"""What each ATen op does to channel labels: the register of rules, one module per kind of op.

An op without a rule leaves whatever reaches it whole: its channels are never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mcomp.pruning.labels import NONE
from mcomp.pruning.operator_names import as_written
from mcomp.pruning.statistics_rules import follow_statistics

if TYPE_CHECKING:
    from mcomp.pruning.tracing import Tracer

#: Takes the tracer, the op, its arguments and its result; False where it cannot follow, having changed nothing.
Rule = Callable[["Tracer", Any, Sequence[Any], dict[str, Any], Any], bool]

_RULES: dict[str, Rule] = {}

#: Ops that make a tensor with the same value everywhere: a narrower one is its like, whichever channels are gone.
_UNIFORM = frozenset({"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "scalar_tensor"})
_UNIFORM_LIKE = frozenset({"zeros_like", "ones_like", "full_like"})

#: Ops that give a tensor another shape in place: by now it has that, and its labels have the old one.
_IN_PLACE_SHAPES = frozenset({"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_"})


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorate the rule of the ops of these names."""

    def register(made: Rule) -> Rule:
        for name in names:
            _RULES[name] = made
        return made

    return register


def follow(tracer: Tracer, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], out: Any) -> None:
    """Give the results of one op their labels."""
    name = func.overloadpacket.__name__
    if name in _UNIFORM or name in _UNIFORM_LIKE:
        tracer.mark(out, torch.full([1] * out.ndim, NONE).expand(out.shape))
        return
    if not tensors:
        return
    if name in _IN_PLACE_SHAPES and (turned := tracer.carried(args[0])) is not None:
        tracer.mark(out, getattr(turned, name[:-1])(*args[1:]))
        return
    found = _RULES.get(name)
    if found is None and torch.Tag.pointwise in func.tags:
        found = _RULES["add"]
    before = tracer.labels_before(args, func)
    if found is None or not found(tracer, func, args, kwargs, out):
        opaque(tracer, name, tensors, out)
    tracer.check_written(before, args)
    follow_statistics(tracer, name, args, tensors, out)
    _follow_scores(tracer, tensors, out)


def _follow_scores(tracer: Tracer, tensors: Sequence[Tensor], out: Any) -> None:
    """What is made of the scores of attention are scores: of the same queries."""
    queries = [found for tensor in tensors if (found := tracer.queries(tensor)) is not None]
    if queries and isinstance(out, Tensor) and (labels := tracer.carried(out)) is not None and tracer.settled(labels):
        tracer.mark_queries(out, queries[0])


def opaque(tracer: Tracer, name: str, tensors: list[Tensor], out: Any) -> None:
    """Leave whole what reaches an op through which channels are not followed."""
    where = f" in `{tracer.module}`" if tracer.module else ""
    reason = f"reaches `{as_written(name)}`{where}, through which channels are not followed"
    for tensor in tensors:
        weight = tracer.weight(tensor)
        if weight is not None:
            tracer.freeze(weight.name, reason)
        else:
            tracer.space.fix(tracer.labels_of(tensor), reason)
    for result in tree_leaves(out):
        if isinstance(result, Tensor):
            tracer.mark(result, tracer.space.opaque(result.shape, reason))
