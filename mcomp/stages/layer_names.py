"""Patterns of layers' names, held against a model before it is trained."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcomp.stages.base import Finding
from mcomp.suggest import listed, nearest

if TYPE_CHECKING:
    from torch import nn


def unmatched(model: nn.Module, option: str, patterns: Iterable[str]) -> list[Finding]:
    """One fault for each pattern that no layer with weights of its own matches."""
    modules = model.named_modules(remove_duplicate=False)  # a shared layer goes by each of its names
    names = [name for name, module in modules if name and _has_weights(module)]
    return [
        Finding(
            f"the pattern `{pattern}` matches no layer of the model",
            option=(option,),
            hint=f"did you mean {listed(nearest(pattern, names, cutoff=0.4) or names[:3])}?" if names else "",
        )
        for pattern in patterns
        if not fnmatch.filter(names, pattern)
    ]


def _has_weights(module: nn.Module) -> bool:
    """A matrix or filters of its own, also where a parametrisation (a weight norm) makes them of others."""
    return hasattr(module, "parametrizations") or any(own.dim() > 1 for own in module.parameters(recurse=False))
