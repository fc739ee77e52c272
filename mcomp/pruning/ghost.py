"""A network with shapes and no values: its forward costs no arithmetic, and its code runs all the same."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


def ghost(model: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters and buffers have shapes and no values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def ghostly(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs without values; integers, which may be indices, keep them."""
    found: tuple[Any, ...] = tree_map(_without_values, inputs)
    return found


def _without_values(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def is_ghost(model: nn.Module) -> bool:
    """Whether some parameter has no values."""
    return any(parameter.is_meta for parameter in model.parameters())
