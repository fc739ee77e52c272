"""A network with shapes and no values: its forward costs no arithmetic, and its code runs all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mcomp.pruning.copying import structural_copy


def ghost(model: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters and buffers have shapes and no values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            memo[id(parameter)] = nn.Parameter(_without_values(parameter.detach()), parameter.requires_grad)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            memo[id(buffer)] = _without_values(buffer.detach())
    return structural_copy(model, memo)


def ghostly(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs without values; integers, which may be indices, keep them."""
    found: tuple[Any, ...] = tree_map(_without_values, inputs)
    return found


def _without_values(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    if leaf.layout is torch.strided and leaf.is_contiguous():  # what `to` makes too, and sooner
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
    return leaf.to("meta")


def is_ghost(model: nn.Module) -> bool:
    """Whether some parameter has no values."""
    return any(parameter.is_meta for parameter in model.parameters())
