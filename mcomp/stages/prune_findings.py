"""What can be held against the options of `prune` before it runs."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

from mcomp.stages.base import Finding
from mcomp.stages.layer_names import prunable_names

if TYPE_CHECKING:
    from torch import nn

#: Importances that look at training images.
WITH_GRADIENTS = ("taylor", "hessian")

#: What is reached over the whole network; one of them at the most.
TARGETS = ("ratio", "macs", "params", "latency_ms")

_ONE_OF_THEM = "say of each layer what stays or what goes, not both"


def idle(options: Any) -> list[Finding]:
    """Warnings of options that change nothing."""
    found = []
    if "score_batches" in options.model_fields_set and options.importance not in WITH_GRADIENTS:
        found.append(
            Finding(
                f"`score_batches` does nothing: `importance: {options.importance}` looks at no data",
                option=("score_batches",),
                hint="leave it out, or use `importance: taylor`",
                severity="warning",
            )
        )
    if options.target() is None:
        return found
    for name in ("keep", "prune"):
        shares = getattr(options, name)
        if isinstance(shares, list) or (isinstance(shares, dict) and "*" in shares):
            (target,) = (one for one in TARGETS if getattr(options, one) is not None)
            found.append(
                Finding(
                    f"`{target}` has nothing to decide on: `{name}` says of every layer what becomes of it",
                    option=(target,),
                    hint=f"leave it out, or name in `{name}` only the layers that it is not to decide on",
                    severity="warning",
                )
            )
            break
    return found


def said_twice(options: Any) -> list[Finding]:
    """Layers and patterns that stand in `keep` and in `prune`."""
    if not isinstance(options.keep, dict) or not isinstance(options.prune, dict):
        return []
    return [
        Finding(
            f"`{name}` stands under both `keep` and `prune`",
            option=("prune", name),
            hint=_ONE_OF_THEM,
            code="MC457",
        )
        for name in options.prune
        if name in options.keep
    ]


def matched_twice(model: nn.Module, options: Any) -> list[Finding]:
    """The first layer that a pattern of `keep` and one of `prune` match."""
    if not isinstance(options.keep, dict) or not isinstance(options.prune, dict):
        return []
    for name in prunable_names(model):
        kept = next((pattern for pattern in options.keep if fnmatch.fnmatch(name, pattern)), None)
        cut = next((pattern for pattern in options.prune if fnmatch.fnmatch(name, pattern)), None)
        if kept is not None and cut is not None:
            return [
                Finding(
                    f"layer `{name}` is matched by `keep` (`{kept}`) and by `prune` (`{cut}`)",
                    option=("prune",),
                    hint=_ONE_OF_THEM,
                )
            ]
    return []


def too_many(model: nn.Module, options: Any) -> list[Finding]:
    """The first layer that is to keep more channels than it has."""
    if not isinstance(options.keep, dict):
        return []
    for pattern, count in options.keep.items():
        for name, module in model.named_modules():
            width = getattr(module, "out_channels", getattr(module, "out_features", None))
            counted = isinstance(count, int) and isinstance(width, int)
            if counted and fnmatch.fnmatch(name, pattern) and count > width:
                return [
                    Finding(
                        f"`{name}` is to keep {count} channels and has {width}",
                        option=("keep", pattern),
                        hint="a whole number counts channels; a share has a point: `1.0` is all of them",
                    )
                ]
    return []
