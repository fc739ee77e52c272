"""Set single weights to zero: unstructured, in blocks, or n of every m."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.errors import StageError, UsageError
from mcomp.metrics import count, effective_macs
from mcomp.pruning.arguments import check_patterns
from mcomp.pruning.keep_lists import matching
from mcomp.pruning.python_inputs import check_network
from mcomp.pruning.targets import is_number, shown
from mcomp.pruning.weight_masks import (
    Block,
    LayerWeight,
    block_scores,
    largest_of_each,
    layer_weights,
    most_in_a_group,
    n_of_m,
    of_blocks,
    smallest,
)

Scope = Literal["global", "per_layer"]
_Weights = Mapping[LayerWeight, Tensor]


@dataclass
class SparsifyResult:
    """A network with weights set to zero.

    Attributes:
        model: a new module; the one that was given is unchanged. Training with mcomp keeps its zeros.
        sparsity: percent of zeros among the weights of all layers, those left dense among them.
        layers: layer's weight to its percent of zeros.
        macs: multiply-accumulates of one sample; the same before and after, for nothing is smaller.
        effective_macs: those of them whose weight is not zero: what hardware that skips zeros has to do.
        notes: what was left dense, and why.
    """

    model: nn.Module
    sparsity: float
    layers: dict[str, float]
    macs: int
    effective_macs: int
    notes: list[str] = field(default_factory=list)


def sparsify(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    ratio: float | None = None,
    pattern: str = "unstructured",
    scope: Scope = "global",
    block: Block = (1, 4),
    ignore: Sequence[str] = (),
) -> SparsifyResult:
    """Set the weights of least magnitude to zero in a copy of ``model`` (Han et al., arXiv:1506.02626).

    The zeros stay in whatever mcomp trains afterwards. They are recorded in the surgery log, so that a model that was
    stored and loaded keeps them as well.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts, for counting.
        ratio: share of the weights to cut, in (0, 1), or of the blocks; left out where the pattern says it.
        pattern: ``unstructured``; ``block``; or ``n:m``, e.g. ``2:4``: of every m neighbours along the input channels,
            at each kernel position, the n largest stay (Mishra et al., arXiv:2104.08378), and so does a layer with n
            input channels or fewer, depthwise convolutions among them.
        scope: rank the weights of all layers together (``global``) or cut the same share of each (``per_layer``).
        block: output and input channels of one block.
        ignore: layer names or patterns (``classifier.*``) to leave dense.

    Raises:
        UsageError: MC417, an argument is out of its range; MC418, a pattern of ``ignore`` matches no layer.
        StageError: MC415, weights are no numbers; MC450, no weight can be cut, or a layer would lose all of them;
            MC451, the self-check failed.
    """
    check_network(model, example_inputs)
    check_arguments(ratio, pattern, scope, block)
    check_patterns("ignore", ignore)
    sparse = copy.deepcopy(model)
    weights = {where: sparse.get_parameter(where.name).detach() for where in layer_weights(sparse)}
    chosen, notes = _chosen(weights, ignore)
    masks = _masks(chosen, ratio, pattern, scope, block)
    _refuse_empty(chosen, masks)
    before = {where: chosen[where][kept] for where, kept in masks.items()}
    for where, kept in masks.items():
        chosen[where].masked_fill_(~kept, 0.0)
    _check(chosen, masks, before, pattern)
    surgery.record(sparse, "sparsify", pattern=pattern, weights=[where.name for where in masks])
    zeros = {where: int((weight == 0).sum()) for where, weight in weights.items()}
    return SparsifyResult(
        model=sparse,
        sparsity=100.0 * sum(zeros.values()) / sum(weight.numel() for weight in weights.values()),
        layers={where.name.removesuffix(".weight"): 100.0 * zeros[where] / weights[where].numel() for where in weights},
        macs=count(sparse, example_inputs).macs,
        effective_macs=effective_macs(sparse, example_inputs),
        notes=[*notes, *_dense_notes(masks, pattern)],
    )


def check_arguments(ratio: object, pattern: object, scope: object, block: object) -> None:
    """See that the arguments of :func:`sparsify` are in their ranges and fit together.

    Raises:
        UsageError: MC417, they do not.
    """
    if not isinstance(pattern, str):
        raise UsageError(f"`pattern` is {shown(pattern)}; it must be a text such as '2:4'", code="MC417")
    if ratio is not None and not is_number(ratio):
        raise UsageError(f"`ratio` is {shown(ratio)}; it must be a number between 0 and 1", code="MC417")
    fixed = n_of_m(pattern)
    faults = {
        f"`pattern` is `{pattern}`; one of unstructured, block, or n:m such as 2:4 with n below m": fixed is None
        and pattern not in ("unstructured", "block"),
        f"`ratio` is {ratio}; it must lie between 0 and 1, both excluded": ratio is not None and not 0 < ratio < 1,
        f"`ratio` is missing; `pattern: {pattern}` does not say how many weights go": ratio is None and fixed is None,
        f"`ratio` is {ratio}, but `pattern: {pattern}` says by itself how many weights go": ratio is not None
        and fixed is not None,
        f"`scope` is {shown(scope)}; one of global, per_layer": scope not in ("global", "per_layer"),
        f"`block` is {shown(block)}; it must be two whole numbers of at least 1, e.g. (1, 4)": not _is_block(block),
    }
    for message, wrong in faults.items():
        if wrong:
            raise UsageError(message, code="MC417")


def _is_block(block: object) -> bool:
    if not isinstance(block, tuple | list) or len(block) != 2:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in block)


def _chosen(weights: _Weights, ignore: Sequence[str]) -> tuple[dict[LayerWeight, Tensor], list[str]]:
    """The weights that may be cut, and what is to be said of the others.

    Layers to ignore are none of them, nor one whose weights are all zero: it has not been trained, and a mask that is
    read off its zeros would keep it from ever being.
    """
    names = [where.layer for where in weights]
    ignored = {name for pattern in ignore for name in matching(pattern, names, "ignore")}
    wanted = {where: weight for where, weight in weights.items() if where.layer not in ignored}
    found = {where: weight for where, weight in wanted.items() if bool(weight.any())}
    if not found:
        raise StageError(
            "the network has no weight that could be cut",
            code="MC450",
            why="every layer is ignored, or zero"
            if weights
            else "it has no convolution, linear, attention or recurrent layer",
        )
    for where, weight in found.items():
        if not bool(weight.isfinite().all()):
            raise StageError(
                f"`{where.name}` holds NaN or infinite weights, so they cannot be ranked",
                code="MC415",
                hint="the training before it diverged: lower the learning rate or the penalty",
            )
    untrained = [where.name for where in wanted if where not in found]
    return found, [f"`{name}` is left as it is: it is zero, so that nothing in it can be ranked" for name in untrained]


def _masks(
    chosen: _Weights, ratio: float | None, pattern: str, scope: Scope, block: Block
) -> dict[LayerWeight, Tensor]:
    """True where a weight stays, in its own shape."""
    fixed = n_of_m(pattern)
    matrices = {where: where.matrices(weight) for where, weight in chosen.items()}
    if fixed is not None:
        kept = [largest_of_each(each, *fixed) for each in matrices.values()]
    else:
        assert ratio is not None
        size: Block = (block[0], block[1]) if pattern == "block" else (1, 1)
        scores = [block_scores(each, size) for each in matrices.values()]
        cut = smallest(scores, ratio) if scope == "global" else [smallest([one], ratio)[0] for one in scores]
        kept = [~of_blocks(one, size, each.shape) for one, each in zip(cut, matrices.values(), strict=True)]
    return {where: where.weight_like(mask) for where, mask in zip(chosen, kept, strict=True)}


def _refuse_empty(chosen: _Weights, masks: _Weights) -> None:
    for where, kept in masks.items():
        weight = chosen[where]
        if not bool((weight * kept).any()):
            largest = float(weight.abs().max())
            raise StageError(
                f"every weight of `{where.layer}` would be cut",
                code="MC450",
                why=f"its largest is {largest:.3g}, below what has to go at this ratio",
                hint=f"lower `ratio`, use `scope: per_layer`, or `ignore: [{where.layer}]`",
            )


def _check(chosen: _Weights, masks: _Weights, before: _Weights, pattern: str) -> None:
    """Hold the new weights against what was asked for.

    Raises:
        StageError: MC451, a cut weight is not zero, another one moved, or a group has more than the pattern allows.
    """
    fixed = n_of_m(pattern)
    for where, weight in chosen.items():
        kept = masks[where]
        faults = {
            "a weight that was cut is not zero": bool(weight[~kept].any()),
            "a weight that stays was changed": not torch.equal(weight[kept], before[where]),
            f"neighbours break the pattern {pattern}": fixed is not None
            and most_in_a_group(where.matrices(weight), fixed[1]) > fixed[0],
        }
        for fault, found in faults.items():
            if found:
                raise StageError(f"the self-check of the mask failed at `{where.name}`: {fault}", code="MC451")


def _dense_notes(masks: _Weights, pattern: str) -> list[str]:
    whole = [where.layer for where, kept in masks.items() if bool(kept.all())]
    if not whole or n_of_m(pattern) is None:
        return []
    more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
    return [f"`{whole[0]}`{more} stays dense: too few input channels for the pattern {pattern}"]
