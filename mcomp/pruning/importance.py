"""How much each channel matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
from mcomp.pruning.gradients import Batch, Loss, gradient_scores

Importance = Literal["bn_gamma", "l1", "l2", "fpgm", "lamp", "taylor", "hessian", "random"]
Reduction = Literal["mean", "max", "sum"]
Normalize = Literal["auto", "none", "mean", "max", "l2"]

IMPORTANCES: tuple[str, ...] = get_args(Importance)
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalize)

#: Those that look at gradients, and so at data.
WITH_GRADIENTS = ("taylor", "hessian")

#: Those that grow with a layer's fan-in or width and are made comparable by the mean of their layer.
_RELATIVE = ("l1", "l2", "fpgm")
_COLUMNS = 4096

#: A parameter and an axis to ``[rows]``, a score for each slice of it along that axis; None where it has none.
_RowScores = Callable[[str, int], Tensor | None]


def channel_importance(
    model: nn.Module,
    groups: ChannelGroups,
    kind: Importance,
    seed: int = 0,
    *,
    reduction: Reduction = "mean",
    normalize: Normalize = "auto",
    batches: Iterable[Batch] = (),
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """Score every channel of every prunable group.

    * ``bn_gamma``: |γ| of its batch norm (Liu et al., "Network Slimming", arXiv:1708.06519).
    * ``l1``, ``l2``: norm of its filter (Li et al., arXiv:1608.08710).
    * ``fpgm``: sum of the distances of its filter to all others of the layer (He et al., "Filter Pruning via Geometric
      Median", arXiv:1811.00250).
    * ``lamp``: squared norm of its filter over the sum of those in its layer that are no smaller (Lee et al.,
      "Layer-adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611, with filters in place of weights).
    * ``taylor``, ``hessian``: what the loss does without it (:mod:`mcomp.pruning.gradients`).
    * ``random``: chance.

    Several filters may make or scale one channel: those of coupled layers, of the heads of attention, of the gates of a
    recurrent layer. Each is scored within its layer; the channel's score is their mean, maximum or sum.

    Args:
        model: the traced model.
        groups: what its trace gave.
        kind: which score.
        seed: for ``random``.
        reduction: how the scores of several filters become one.
        normalize: by what the scores of a layer are divided: ``none``, their ``mean``, ``max`` or ``l2`` norm. ``auto``
            divides ``l1``, ``l2`` and ``fpgm`` by the mean, so that layers of different fan-in compare, and leaves the
            others as they are.
        batches: inputs and labels, for ``taylor`` and ``hessian``.
        loss: of outputs and labels; cross-entropy where left out.

    Returns:
        Group name to ``[channels]`` scores; without a group that ``bn_gamma`` cannot score for want of a batch norm.

    Raises:
        UsageError: ``kind`` looks at gradients, and there is no batch.
        StageError: a score is NaN or infinite.
    """
    generator = torch.Generator().manual_seed(seed)
    gammas = set(groups.trace.gammas)
    rows_of = _row_scores(model, groups, kind, batches, loss)
    rows_of = _cached(_normalised(rows_of, normalize if normalize != "auto" else _usual(kind)))
    scores: dict[str, Tensor] = {}
    for group in groups.prunable:
        found: Tensor | None
        if kind == "random":
            found = torch.rand(group.channels, generator=generator)
        else:
            found = None
            if kind in ("bn_gamma", "taylor"):  # a gate behind the batch norm, where there is one
                found = _reduced(group, rows_of, _names(group, "values") & gammas, reduction)
            if found is None and kind != "bn_gamma":
                found = _reduced(group, rows_of, _names(group, "rows"), reduction)
        if found is None:
            continue
        if not bool(found.isfinite().all()):
            raise _not_finite(group.name, kind)
        scores[group.name] = found
    return scores


def _usual(kind: Importance) -> Normalize:
    return "mean" if kind in _RELATIVE else "none"


def _row_scores(
    model: nn.Module, groups: ChannelGroups, kind: Importance, batches: Iterable[Batch], loss: Loss | None
) -> _RowScores:
    tensors = dict(model.named_parameters())
    if kind in WITH_GRADIENTS:
        known = gradient_scores(model, groups, kind, batches, loss)
        return lambda name, axis: known.get((name, axis))

    def score(name: str, axis: int) -> Tensor | None:
        if name not in tensors:
            return None
        rows = tensors[name].detach().movedim(axis, 0)
        rows = rows.reshape(len(rows), -1)
        if kind == "fpgm":
            return _distances(rows)
        if kind == "lamp":
            return _lamp(rows)
        return rows.abs().amax(1).double() if kind == "bn_gamma" else _norm(rows, 1 if kind == "l1" else 2)

    return score


def _norm(rows: Tensor, order: int) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(rows, order, dim=1)
    return found.double()


def _distances(rows: Tensor) -> Tensor:
    """``[rows]`` sum of the Euclidean distances to the others."""
    products = torch.zeros((len(rows), len(rows)), dtype=torch.float64)
    for columns in torch.split(rows, _COLUMNS, dim=1):
        wide = columns.double()
        products += wide @ wide.T
    squares = products.diagonal()
    distances: Tensor = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt()
    return distances.fill_diagonal_(0).sum(1)


def _lamp(rows: Tensor) -> Tensor:
    squares = rows.double().square().sum(1)
    order = squares.sort().values
    # of equal ones each counts all: the sum begins at the first of them
    first = torch.searchsorted(order, squares)
    above = order.flip(0).cumsum(0).flip(0)[first.clamp(max=len(order) - 1)]
    return squares / above.clamp(min=torch.finfo(torch.float64).tiny)


def _normalised(rows_of: _RowScores, how: Normalize) -> _RowScores:
    def score(name: str, axis: int) -> Tensor | None:
        found = rows_of(name, axis)
        if found is None or how == "none":
            return found
        size = found.mean() if how == "mean" else found.max() if how == "max" else found.norm()
        return found / size.clamp(min=torch.finfo(torch.float64).tiny)

    return score


def _cached(rows_of: _RowScores) -> _RowScores:
    """Each parameter is scored once, though several groups may share it."""
    known: dict[tuple[str, int], Tensor | None] = {}

    def score(name: str, axis: int) -> Tensor | None:
        if (name, axis) not in known:
            known[name, axis] = rows_of(name, axis)
        return known[name, axis]

    return score


def _names(group: ChannelGroup, role: str) -> set[str]:
    return {axis.parameter for axis in group.coupled if axis.role == role}


def _reduced(group: ChannelGroup, rows_of: _RowScores, names: set[str], how: Reduction) -> Tensor | None:
    """``[channels]`` over what each holds of these parameters; None unless every channel has at least one score."""
    seen = torch.zeros(group.channels, dtype=torch.float64)
    found = torch.full_like(seen, -torch.inf if how == "max" else 0.0)
    for axis in group.coupled:
        each = rows_of(axis.parameter, axis.axis) if axis.parameter in names and axis.role != "columns" else None
        if each is None:
            continue
        mine = each[axis.indices]
        if how == "max":
            found.scatter_reduce_(0, axis.members, mine, "amax")
        else:
            found.index_add_(0, axis.members, mine)
        seen.index_add_(0, axis.members, torch.ones_like(mine))
    if not bool((seen > 0).all()):
        return None
    return found / seen if how == "mean" else found


def _not_finite(name: str, kind: Importance) -> StageError:
    if kind in WITH_GRADIENTS:
        what = f"the gradients or weights of `{name}` are NaN or infinite"
    else:
        what = f"`{name}` holds NaN or infinite weights"
    return StageError(
        f"{what}, so its channels cannot be ranked by `{kind}`",
        code="MC415",
        hint="the training before it diverged: lower the learning rate or the penalty",
    )
