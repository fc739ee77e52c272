"""How much each channel matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups

Importance = Literal["bn_gamma", "l1", "l2", "random"]


def channel_importance(model: nn.Module, groups: ChannelGroups, kind: Importance, seed: int = 0) -> dict[str, Tensor]:
    """Score every channel of every prunable group.

    ``bn_gamma`` is |γ| as it is (Liu et al., "Network Slimming", arXiv:1708.06519). ``l1`` and ``l2`` are the norms of
    a channel's filters (Li et al., arXiv:1608.08710) divided by their mean over the layer, so that layers of different
    fan-in compare. Where several layers make or scale a channel, its score is the mean over them.

    Args:
        model: the traced model.
        groups: what its trace gave.
        kind: which score.
        seed: for ``random``.

    Returns:
        Group name to ``[channels]`` scores; without a group that ``bn_gamma`` cannot score for want of a batch norm.

    Raises:
        StageError: a score is NaN or infinite.
    """
    tensors = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    gammas = set(groups.trace.gammas)
    scores: dict[str, Tensor] = {}
    for group in groups.prunable:
        if kind == "random":
            found: Tensor | None = torch.rand(group.channels, generator=generator)
        elif kind == "bn_gamma":
            scales = [name for name in _names(group, "values") if name in gammas]
            found = _mean_over_axes(group, {name: tensors[name] for name in scales}, None)
        else:
            filters = {name: tensors[name] for name in _names(group, "rows")}
            found = _mean_over_axes(group, filters, 1 if kind == "l1" else 2)
        if found is None:
            continue
        if not bool(found.isfinite().all()):
            raise StageError(
                f"`{group.name}` holds NaN or infinite weights, so its channels cannot be ranked by `{kind}`",
                code="MC415",
                hint="the training before it diverged: lower the learning rate or the penalty",
            )
        scores[group.name] = found
    return scores


def _names(group: ChannelGroup, role: str) -> list[str]:
    return [axis.parameter for axis in group.coupled if axis.role == role]


def _mean_over_axes(group: ChannelGroup, tensors: Mapping[str, Tensor], norm: int | None) -> Tensor | None:
    """``[channels]`` mean over the coupled axes; None unless every channel has at least one number."""
    total, seen = torch.zeros(group.channels, dtype=torch.float64), torch.zeros(group.channels, dtype=torch.float64)
    for axis in group.coupled:
        if axis.parameter not in tensors or axis.role == "columns":
            continue
        rows = tensors[axis.parameter].detach().movedim(axis.axis, 0)
        rows = rows.reshape(len(rows), -1)
        each = rows.abs().amax(1) if norm is None else torch.linalg.vector_norm(rows, norm, dim=1)
        each = each.double()
        if norm is not None:
            each = each / each.mean().clamp(min=torch.finfo(torch.float64).tiny)
        total.index_add_(0, axis.members, each[axis.indices])
        seen.index_add_(0, axis.members, torch.ones(len(axis.members), dtype=torch.float64))
    return total / seen if bool((seen > 0).all()) else None
