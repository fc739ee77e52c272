"""Small moves on module trees that conversion and folding share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def replace_module(root: nn.Module, name: str, made: nn.Module) -> None:
    """Put ``made`` where ``name`` is, and everywhere else the same module hangs."""
    old = root.get_submodule(name)
    for path, module in list(root.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, leaf = path.rpartition(".")
            setattr(root.get_submodule(parent), leaf, made)


def relative_error(found: Any, expected: Any) -> float:
    """``max|found - expected| / max|expected|`` over all float tensors of two outputs of the same structure.

    NaN where either holds one.
    """
    difference = largest = 0.0
    for mine, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if isinstance(theirs, Tensor) and theirs.is_floating_point() and theirs.numel():
            apart = float((mine - theirs).abs().max())
            if math.isnan(apart):
                return apart
            difference, largest = max(difference, apart), max(largest, float(theirs.abs().max()))
    return difference / max(largest, torch.finfo(torch.float32).tiny)


def attribute(root: nn.Module, path: str) -> Tensor:
    """The parameter or buffer called ``path``."""
    holder, _, name = path.rpartition(".")
    found: Tensor = getattr(root.get_submodule(holder), name)
    return found
