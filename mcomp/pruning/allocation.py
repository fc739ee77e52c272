"""How many channels each group keeps."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["global", "per_layer"]


def above_threshold(scores: dict[str, Tensor], ratio: float, scope: Scope) -> dict[str, int]:
    """Count what lies above the threshold: the score at index ``floor(n * ratio)`` of all n, sorted.

    A tie with the threshold goes, so that ties never keep more than ``ratio`` allows.

    Args:
        scores: group to ``[channels]``.
        ratio: in (0, 1).
        scope: one threshold for all groups, or one for each.
    """
    if scope == "per_layer":
        return {name: int((found > _threshold(found, ratio)).sum()) for name, found in scores.items()}
    threshold = _threshold(torch.cat(list(scores.values())), ratio)
    return {name: int((found > threshold).sum()) for name, found in scores.items()}


def tied_channels(scores: dict[str, Tensor], kept: dict[str, int], ratio: float) -> int:
    """How many channels went beyond ``ratio`` because they tie with a threshold; 0 for the usual one per threshold.

    Args:
        scores: group to ``[channels]``.
        kept: what :func:`above_threshold` said of them.
        ratio: in (0, 1).
    """
    count = sum(found.numel() for found in scores.values())
    beyond = count - math.floor(count * ratio + 1e-9) - sum(kept.values())
    return beyond if beyond > 2 * len(scores) else 0


def _threshold(scores: Tensor, ratio: float) -> Tensor:
    count = scores.numel()
    # 0.29 * 100 is 28.999…: the index a person expects is 29
    index = min(math.floor(count * ratio + 1e-9), count - 1)
    return scores.sort().values[index]


def rounded(kept: int, channels: int, base: int, min_channels: int = 1) -> int:
    """The kept count as a multiple of ``base``: the nearest (a tie goes up) that fits, and never below one ``base``.

    Args:
        kept: channels above the threshold.
        channels: channels there are.
        base: what the count must divide by.
        min_channels: keep at least this many, rounded up to ``base``; all where there are fewer.

    Returns:
        ``channels`` where no multiple of ``base`` fits.
    """
    if base > channels or min_channels > channels:
        return channels
    nearest = math.floor(kept / base + 0.5) * base
    least = math.ceil(min_channels / base) * base
    most = channels // base * base
    return min(max(nearest, least, base), most) if least <= channels else channels
