"""How far a pruning can go before its scores are known: widths, parameters and MACs between two bounds.

With one threshold over all layers, which layers lose channels is known only after training; how many go in total is
known before. The reasoning, for the group widths ``k``:

* ``t_g`` channels of group ``g`` lie above the threshold. All together they are ``T = n - floor(n * ratio) - 1``; ties
  with the threshold make them fewer, never more. ``k_g = rounded(t_g)`` as :func:`mcomp.pruning.allocation.rounded`
  says, so every reachable ``k_g`` is known together with the ``t_g`` that lead to it.
* A weight has as many elements as the product of its axes, and each axis is an affine function of the widths:
  parameters are a quadratic form in ``k`` with coefficients of at least 0, and so are MACs, each weight being used a
  fixed number of times.
* The greatest value of such a form under ``sum(t) <= T`` is bounded by replacing each product by its McCormick envelope
  (a linear function that is never below it for widths in their ranges) and the budget by a Lagrange multiplier. Every
  choice of envelope and multiplier is a valid bound; a subgradient search only finds a good one. The least value goes
  likewise, with the envelopes from below.
* With a threshold for each set of like layers there are as many budgets; their sum is one that holds for all together.
* A group that the network's code may refuse at some width (see :class:`mcomp.pruning.fitting.Fitting`) may end at any
  width that its structure allows, whatever its scores. Which groups can is found out by running the network's code at
  the widths in question; one refusal makes every group suspect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mcomp.metrics import count
from mcomp.pruning.allocation import Allocation, Scope, ranking_of, rounded
from mcomp.pruning.arguments import check_amounts, check_choices
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
from mcomp.pruning.channel_surgery import cut_channels, restored, shared_copy
from mcomp.pruning.cost_form import CostForm, agrees, mac_form, parameter_form
from mcomp.pruning.fitting import nothing_to_prune
from mcomp.pruning.importance import WITH_GRADIENTS, Importance, channel_importance
from mcomp.pruning.keep_lists import Shares, keep_list
from mcomp.pruning.matching import Mismatch, balanced_base, choose, narrow_shapes, split_groups
from mcomp.pruning.passes import TraceFailure, trace_labels
from mcomp.pruning.structured import ignoring, ranked_groups, subject_of, traced
from mcomp.pruning.tracing import Heads

#: Widths of a suspect group that are tried on the network's code; with more, it counts as one that may stay whole.
TRIALS = 48

_SEARCH_STEPS = 150
_MULTIPLIER_STEPS = 40
_ROUNDING = 1e-9

#: Share of a layer's channels whose filter norms may be equal in single precision without meaning anything.
_CHANCE = 0.05

Range = tuple[int, int]


@dataclass(frozen=True)
class Width:
    """One width that a group can end with, and the channels above the threshold that lead to it.

    Attributes:
        kept: channels.
        least: smallest count above the threshold; what it takes from the budget at the least.
        most: largest.
    """

    kept: int
    least: float
    most: float


@dataclass(frozen=True)
class Reach:
    """Where a pruning can end.

    Attributes:
        params: least and greatest number of parameters.
        macs: the same of MACs.
        certain: every group ends at one width, so that ``narrowest`` is the outcome's structure.
        narrowest: the network with every group at its least width; its weights mean nothing. None where its code does
            not take these widths.
        typical: the network with every group cut in proportion, or whole where its code does not take that; its weights
            mean nothing.
    """

    params: Range
    macs: Range
    certain: bool
    narrowest: nn.Module | None
    typical: nn.Module


def reach(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    ratio: float | None,
    *,
    regular: int = 1,
    importance: Importance = "bn_gamma",
    scope: Scope = "global",
    min_channels: int = 1,
    ignore: Sequence[str] = (),
    heads: Heads = "dims",
    keep: Shares | None = None,
    prune: Shares | None = None,
    ties: bool = True,
) -> Reach:
    """Bound what :func:`mcomp.pruning.prune` makes of ``model``, whatever its weights are by then.

    Args:
        model: the architecture; its weights do not matter.
        example_inputs: a batch that it accepts.
        ratio: as for ``prune``, and so are the others up to ``prune``.
        regular: every pruned width is a multiple of this.
        importance: decides which layers can be ranked at all.
        scope: one threshold for the whole network, for each layer, or for those of one structure.
        min_channels: no layer keeps fewer.
        ignore: layers left whole.
        heads: what goes of an attention layer.
        keep: shares that stay.
        prune: shares that go.
        ties: whether many channels may tie with the threshold, as scales do that are still 1 or pulled to exactly 0.

    Raises:
        UsageError: an argument is out of its range, or a pattern of ``ignore`` matches no layer.
        StageError: nothing can be pruned.
    """
    check_choices(importance, scope, heads)
    check_amounts({"ratio": ratio}, regular, min_channels, listed=bool(keep or prune))
    subject, inputs = subject_of(model, example_inputs)
    groups = _rankable(subject, inputs, importance, ignore, heads)
    allocation = Allocation(ratio, ranking_of(groups, scope), keep_list(groups, keep, prune).groups)
    bases = {group.name: group.base(regular) for group in groups.prunable}
    may_stay = _suspects(subject, inputs, groups, bases, min_channels)
    widths = {
        group.name: _widths(group, bases[group.name], min_channels, allocation, group.name in may_stay)
        for group in groups.prunable
    }
    budget = _budget(groups, allocation)
    if scope == "per_layer" and ratio is not None:
        widths = {
            group.name: widths[group.name]
            if group.name in allocation.fixed
            else _of_one_layer(
                group,
                widths[group.name],
                ratio,
                ties,
                allocation.is_half_way(group, bases[group.name]),
            )
            for group in groups.prunable
        }
    widths = {name: [width for width in found if width.least <= budget] for name, found in widths.items()}
    narrowest = _narrow(subject, inputs, groups, {name: found[0].kept for name, found in widths.items()})
    typical = _narrow(subject, inputs, groups, _in_proportion(groups, bases, allocation, min_channels)) or subject
    least = None if ties or scope == "per_layer" or ratio is None else budget
    params, macs = _ranges(subject, inputs, groups, narrowest, widths, budget, least)
    certain = all(len(found) == 1 for found in widths.values())
    return Reach(params, macs, certain, narrowest, typical)


def scores_repeat(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    importance: Importance,
    ignore: Sequence[str] = (),
    heads: Heads = "dims",
) -> bool:
    """Whether channels that :func:`reach` would rank have the same score, more of them than single precision makes.

    Args:
        model: with its weights.
        example_inputs: a batch that it accepts.
        importance: as for ``reach``.
        ignore: as for ``reach``.
        heads: as for ``reach``.

    Raises:
        UsageError: a pattern of ``ignore`` matches no layer.
        StageError: nothing can be pruned, or a score is NaN or infinite.
    """
    if importance in WITH_GRADIENTS:  # that takes data; channels that are dead all score zero
        return True
    subject, inputs = subject_of(model, example_inputs)
    found = channel_importance(subject, _rankable(subject, inputs, importance, ignore, heads), importance)
    different = {name: len(set(scores.tolist())) for name, scores in found.items()}
    alike = any(different[name] < (1 - _CHANCE) * len(scores) for name, scores in found.items())
    return alike or len(set(torch.cat(list(found.values())).tolist())) < sum(different.values())


def _ranges(
    subject: nn.Module,
    inputs: tuple[Tensor, ...],
    groups: ChannelGroups,
    narrowest: nn.Module | None,
    widths: dict[str, list[Width]],
    budget: float,
    least: float | None,
) -> tuple[Range, Range]:
    """Parameters and MACs; the forms are held against what is counted on the whole network and on the narrowest."""
    whole = {group.name: group.channels for group in groups.prunable}
    thinnest = {name: found[0].kept for name, found in widths.items()}
    high, low = count(subject, inputs), None if narrowest is None else count(narrowest, inputs)

    def of(form: CostForm, before: int, after: int | None) -> Range:
        if agrees(form, before, whole) and (after is None or agrees(form, after, thinnest)):
            return _bounds(form, widths, budget, least)
        return after or 0, before  # matrix products of activations, say: no more is known than that narrower is less

    return (
        of(parameter_form(subject, groups), high.params, None if low is None else low.params),
        of(mac_form(subject, inputs, groups), high.macs, None if low is None else low.macs),
    )


def _rankable(
    subject: nn.Module, inputs: tuple[Tensor, ...], importance: Importance, ignore: Sequence[str], heads: Heads
) -> ChannelGroups:
    """The groups as ``prune`` sees them before it looks at a score."""
    groups = ignoring(traced(subject, inputs, heads), ignore)
    if importance == "bn_gamma":
        groups = ranked_groups(groups, importance, channel_importance(subject, groups, importance))
    if not groups.prunable:
        raise nothing_to_prune(groups)
    return groups


def _above(channels: int, ratio: float) -> int:
    """Scores above the threshold where none ties with it; the threshold's own channel goes."""
    return channels - min(math.floor(channels * ratio + _ROUNDING), channels - 1) - 1


def _budget(groups: ChannelGroups, allocation: Allocation) -> float:
    """Channels above a threshold, of all groups that have one; without limit where nothing is ranked."""
    if allocation.ratio is None:
        return math.inf
    sizes: dict[str, int] = {}
    for group in groups.prunable:
        if group.name not in allocation.fixed:
            ranking = allocation.ranking[group.name]
            sizes[ranking] = sizes.get(ranking, 0) + group.channels
    return float(sum(_above(channels, allocation.ratio) for channels in sizes.values()))


def _widths(group: ChannelGroup, base: int, min_channels: int, allocation: Allocation, may_stay: bool) -> list[Width]:
    """Every width that ``group`` can end with."""
    ranked = allocation.ratio is not None and group.name not in allocation.fixed
    if may_stay:  # what the others ask for, or its own refusal, may set it
        budgeted = float(group.channels if ranked else 0)
        found = {rounded(above, group.channels, base, group.least(min_channels)) for above in range(group.channels + 1)}
        return [Width(kept, 0, budgeted) for kept in sorted({*found, group.channels})]
    if not ranked:
        wanted = allocation.fixed.get(group.name, float(group.channels))
        return [Width(allocation.rounded(wanted, group, base, min_channels), 0, 0)]
    reached: dict[int, tuple[float, float]] = {}
    for above in range(group.channels + 1):
        kept = rounded(above, group.channels, base, group.least(min_channels))
        least, most = reached.get(kept, (above, above))
        reached[kept] = min(least, above), max(most, above)
    return [Width(kept, *counts) for kept, counts in sorted(reached.items())]


def _of_one_layer(group: ChannelGroup, widths: list[Width], ratio: float, ties: bool, half_way: bool) -> list[Width]:
    """The widths that remain where a layer has a threshold of its own: one, but for ties and what may stay whole.

    Between two counts that lie equally near, the other layers decide: both remain.
    """
    above = _above(group.channels, ratio)
    most = above + 1 if half_way else above
    return [
        replace(width, least=min(width.least, above))
        for width in widths
        if width.least <= most and (ties or above <= width.most)
    ]


def _suspects(
    subject: nn.Module,
    inputs: tuple[Tensor, ...],
    groups: ChannelGroups,
    bases: dict[str, int],
    min_channels: int,
) -> set[str]:
    """Groups that the network's code may force to stay whole.

    A group whose channels all take the same route, or whose counts always keep every route's share, is cut the same
    way at each width: its least one is tried. Any other is tried at each of its widths.
    """
    everyone = {group.name for group in groups.prunable}
    lattices: dict[str, list[int]] = {}
    uncertain: set[str] = set()
    for group in groups.prunable:
        base = bases[group.name]
        least = group.least(min_channels)
        lattice = sorted({rounded(above, group.channels, base, least) for above in range(group.channels + 1)})
        certain = base % balanced_base(group, groups.trace) == 0
        if not certain:
            uncertain.add(group.name)
        lattices[group.name] = lattice[:1] if certain else lattice
    if split_groups(groups) or any(len(lattices[name]) > TRIALS for name in uncertain):
        return everyone
    for trial in range(max(map(len, lattices.values()), default=0)):
        counts = {name: lattice[min(trial, len(lattice) - 1)] for name, lattice in lattices.items()}
        if _narrow(subject, inputs, groups, counts) is None:
            return everyone
    return set()


def _narrow(
    subject: nn.Module, inputs: tuple[Tensor, ...], groups: ChannelGroups, counts: dict[str, int]
) -> nn.Module | None:
    """The network at these widths, with arbitrary weights; None where its code does not agree with them."""
    scores = {group.name: torch.arange(group.channels) for group in groups.prunable}
    cut = {name for name, kept in counts.items() if kept < len(scores[name])}
    try:
        shapes = narrow_shapes(groups, counts)
        with restored(groups.trace.subject):
            narrow = cut_channels(groups.trace.subject, shapes)
            routed = trace_labels(narrow, groups.trace.inputs, like=groups.trace)
        choose(groups, routed, scores, cut)
    except (Mismatch, TraceFailure):
        return None
    return cut_channels(shared_copy(subject), shapes)


def _in_proportion(
    groups: ChannelGroups, bases: dict[str, int], allocation: Allocation, min_channels: int
) -> dict[str, int]:
    """What each group keeps where all lose the same share."""

    def wanted(group: ChannelGroup) -> float:
        usual = group.channels if allocation.ratio is None else _above(group.channels, allocation.ratio)
        return allocation.fixed.get(group.name, usual)

    return {
        group.name: allocation.rounded(wanted(group), group, bases[group.name], min_channels)
        for group in groups.prunable
    }


def _bounds(form: CostForm, widths: dict[str, list[Width]], budget: float, least: float | None) -> Range:
    """The least and the greatest value of ``form`` that the widths allow, rounded outwards never past an integer."""
    table = _Table.of([widths[name] for name in form.names])
    low = form.value({name: found[0].kept for name, found in widths.items()})
    high = form.value({name: found[-1].kept for name, found in widths.items()})
    high = min(high, _extreme(form, table, budget, upper=True))
    if least is not None:
        low = max(low, _extreme(form, table, least, upper=False))
    slack = 1 + _ROUNDING  # of sums in double precision
    return math.ceil(low / slack), math.floor(high * slack)


@dataclass(frozen=True)
class _Table:
    """``[groups, widths]``: what each group can keep and what that takes, the last width repeated to fill up."""

    kept: Tensor
    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, widths: list[list[Width]]) -> _Table:
        longest = max(map(len, widths))
        full = [[*found, *[found[-1]] * (longest - len(found))] for found in widths]
        return cls(
            *(
                torch.tensor([[getattr(width, name) for width in row] for row in full], dtype=torch.float64)
                for name in ("kept", "least", "most")
            )
        )


def _extreme(form: CostForm, table: _Table, budget: float, *, upper: bool) -> float:
    """The best bound that the search finds; each value it sees is a bound."""
    lo, hi = table.kept.amin(1), table.kept.amax(1)
    i, j, weight = form.first, form.second, form.products
    if upper:  # two envelopes of k_i k_j from above: each as (slope of k_i, slope of k_j, constant)
        one, two = (hi[j], lo[i], -lo[i] * hi[j]), (lo[j], hi[i], -hi[i] * lo[j])
    else:
        one, two = (lo[j], lo[i], -lo[i] * lo[j]), (hi[j], hi[i], -hi[i] * hi[j])
    mix = torch.full_like(weight, 0.5)
    best = math.inf if upper else -math.inf
    for step in range(_SEARCH_STEPS):
        slope_i, slope_j, constant = (weight * (mix * a + (1 - mix) * b) for a, b in zip(one, two, strict=True))
        slopes = form.linear.clone().index_add_(0, i, slope_i).index_add_(0, j, slope_j)
        inner, kept = _separable(slopes, table, budget, upper=upper)
        value = float(form.constant + constant.sum() + inner)
        best = min(best, value) if upper else max(best, value)
        gradient = weight * ((one[0] - two[0]) * kept[i] + (one[1] - two[1]) * kept[j] + one[2] - two[2])
        size = float(gradient.abs().max()) if len(gradient) else 0.0
        if size == 0:
            break
        move = gradient / size * (0.5 / math.sqrt(step + 1))
        mix = (mix - move if upper else mix + move).clamp_(0, 1)
    return best


def _separable(slopes: Tensor, table: _Table, budget: float, *, upper: bool) -> tuple[float, Tensor]:
    """The extreme of ``slopes @ k`` under the budget, or a bound of it, by one multiplier; and the widths it chose."""
    gain = slopes[:, None] * table.kept
    cost = table.least if upper else table.most
    sign = 1.0 if upper else -1.0

    def at(multiplier: float) -> tuple[float, Tensor, float]:
        found = (sign * (gain - multiplier * cost)).max(1)
        chosen = found.indices[:, None]
        used = float(cost.gather(1, chosen).sum())
        free = 0.0 if math.isinf(budget) else multiplier * budget
        return sign * float(found.values.sum()) + free, table.kept.gather(1, chosen)[:, 0], used

    value, kept, used = at(0.0)
    if used <= budget if upper else used >= budget:
        return value, kept
    low, high = 0.0, 1.0 + float((gain.amax(1) - gain.amin(1)).max())
    best, chosen = value, kept
    for _ in range(_MULTIPLIER_STEPS):
        middle = (low + high) / 2
        value, kept, used = at(middle)
        if value < best if upper else value > best:
            best, chosen = value, kept
        low, high = (middle, high) if (used > budget if upper else used < budget) else (low, middle)
    return best, chosen
