"""Ops whose result is looked up by what the values are: here everything is chosen, in the order it stands in.

Detectors keep the boxes with the best scores. Which these are depends on rounding, and on weights that a narrow network
has not got yet; that all of them are kept depends on nothing. A trace, and the comparison of a pruned network with the
masked one, are made that way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.pruning.ghost_ops import ghost_result
from mcomp.pruning.kept_values import before_writing


class ValueFree(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch publishes no types for these
    """Inside, selections take everything."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parts = taken_apart(self, func, args, kwargs)
        return compute(func, args, kwargs) if parts is NotImplemented else parts


def taken_apart(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """Under inference mode PyTorch leaves ops whole that are made of others: here ``mode`` meets those.

    Returns:
        ``NotImplemented`` for every op that is not.
    """
    if not torch.is_inference_mode_enabled():
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an op; a selection takes everything. Beside meta tensors, others count by their shape."""
    before_writing(func, args, kwargs)
    name = func.overloadpacket.__name__
    if name in _SELECTIONS:
        return _SELECTIONS[name](*args, **kwargs)
    short = ghost_result(name, args, kwargs)
    if short is not None:
        return short
    if name in ("index", "index_put_", "index_put"):
        args = (args[0], _without_masks(args[1]), *args[2:])
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len({leaf.device for leaf in leaves}) > 1 and any(leaf.is_meta for leaf in leaves):
        args, kwargs = tree_map(lambda leaf: leaf.to("meta") if _moves(leaf) else leaf, (args, kwargs))
    return func(*args, **kwargs)


def plain_number(value: Any) -> float | None:
    """A number, or the one in a tensor without dimensions; None where its value is not known."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_meta:
        value = value.item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _moves(leaf: Any) -> bool:
    """A tensor without dimensions is a number, and meets any device."""
    return isinstance(leaf, Tensor) and not leaf.is_meta and leaf.ndim > 0


def _without_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += _nonzero(index).unbind(1)
        else:
            found.append(index)
    return found


def _nonzero(values: Tensor) -> Tensor:
    return torch.ones(values.shape, dtype=torch.bool).nonzero().to(_home(values))


def _nms(boxes: Tensor, _scores: Tensor, _threshold: float) -> Tensor:
    return torch.arange(len(boxes), device=_home(boxes))


def _topk(values: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    first = values.narrow(dim, 0, k)
    return first.clone(), _order(first, dim)


def _sort(values: Tensor, dim: int = -1, descending: bool = False, **_how: Any) -> tuple[Tensor, Tensor]:
    return values.clone(), _order(values, dim)


def _argsort(values: Tensor, dim: int = -1, descending: bool = False, **_how: Any) -> Tensor:
    return _order(values, dim)


def _unique(
    values: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of values that nobody knows, one: detectors suppress boxes class by class, and each class takes all of them."""
    if not values.is_meta:
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._unique2(values, sorted, return_inverse, return_counts)
        return found
    where = torch.zeros(values.shape, dtype=torch.int64)
    return values.new_empty(1), where, torch.full((1,), values.numel())


def _order(values: Tensor, dim: int) -> Tensor:
    """Positions along ``dim``, in order."""
    size = [1] * values.ndim
    if not size:
        return torch.zeros((), dtype=torch.int64, device=_home(values))
    size[dim] = values.shape[dim]
    return torch.arange(values.shape[dim], device=_home(values)).reshape(size).expand(values.shape).clone()


def _home(values: Tensor) -> torch.device:
    """Positions are known whatever the values are: those of a meta tensor lie on the CPU."""
    return torch.device("cpu") if values.is_meta else values.device


_SELECTIONS: dict[str, Any] = {
    "nonzero": _nonzero,
    "nms": _nms,
    "topk": _topk,
    "sort": _sort,
    "argsort": _argsort,
    "_unique2": _unique,
}
