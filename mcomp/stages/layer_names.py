"""Patterns of layers' names, held against a model before it is trained."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcomp.stages.base import Finding
from mcomp.suggest import listed, nearest

if TYPE_CHECKING:
    from torch import nn


def unmatched(
    model: nn.Module, option: str, patterns: Iterable[str], *, by_weight: bool = False, by_kind: bool = False
) -> list[Finding]:
    """One fault for each pattern that no layer with weights of its own matches.

    Args:
        model: in front of the stage.
        option: which holds the patterns.
        patterns: as a recipe has them.
        by_weight: a layer that calls no weight ``weight`` goes by the names of those it has, as in pruning:
            ``attention.in_proj_weight``.
        by_kind: ``type:Linear`` and ``position:first`` are patterns too, and so are calls like ``matmul_1``, as in
            quantisation.
    """
    names = _all_names(model, by_weight)
    if by_kind:
        names = [*names, *_kinds(model), "position:first", "position:last"]
    return [
        Finding(
            f"the pattern `{pattern}` matches no layer of the model",
            option=(option,),
            hint=f"did you mean {listed(nearest(pattern, names, cutoff=0.4) or names[:3])}?" if names else "",
        )
        for pattern in patterns
        if not fnmatch.filter(names, pattern) and not (by_kind and _names_a_call(pattern))
    ]


def prunable_names(model: nn.Module) -> list[str]:
    """Every name that a layer with weights goes by in pruning."""
    return _all_names(model, by_weight=True)


def _all_names(model: nn.Module, by_weight: bool) -> list[str]:
    modules = model.named_modules(remove_duplicate=False)  # a shared layer goes by each of its names
    return [name for place, module in modules for name in _names(place, module, by_weight) if name]


def _kinds(model: nn.Module) -> list[str]:
    from mcomp.quantization.operands import FUNCTIONS

    weighted = dict.fromkeys(type(module).__name__ for module in model.modules() if _has_weights(module))
    return [f"type:{kind}" for kind in (*weighted, *FUNCTIONS, "einsum", "embedding")]


def _names_a_call(pattern: str) -> bool:
    """Whether the pattern may be the name of a function's call, which only a graph of the model shows."""
    from mcomp.quantization.operands import FUNCTIONS

    return re.sub(r"_\d+$", "", pattern) in {*FUNCTIONS, "einsum", "embedding"}


def _names(place: str, module: nn.Module, by_weight: bool) -> list[str]:
    if not by_weight:
        return [place] if _has_weights(module) else []
    own = [f"{place}.{name}" for name, weight in module.named_parameters(recurse=False) if weight.dim() > 1]
    return [name.removeprefix(".").removesuffix(".weight") for name in own]


def _has_weights(module: nn.Module) -> bool:
    """A matrix or filters of its own, also where a parametrisation (a weight norm) makes them of others."""
    return hasattr(module, "parametrizations") or any(own.dim() > 1 for own in module.parameters(recurse=False))
