"""How many channels each group keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups

#: Which channels are ranked together: all, those of a layer, or those of layers of the same structure.
Scope = Literal["global", "per_layer", "isomorphic"]


@dataclass(frozen=True)
class Allocation:
    """Which share of its channels each group is to keep, before it is rounded.

    Attributes:
        ratio: share of the ranked channels that goes; None where only ``fixed`` says what goes.
        ranking: group to a name of the set of groups that it is ranked with.
        fixed: group to the channels that it keeps whatever its scores.
        eased: groups that are pruned by ``eased_ratio`` instead: a step of rounding nearer to a target.
        eased_ratio: see there.
    """

    ratio: float | None
    ranking: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    eased: frozenset[str] = frozenset()
    eased_ratio: float | None = None

    def kept(self, scores: Mapping[str, Tensor]) -> dict[str, float]:
        """Channels that each group of ``scores`` would keep if any number were possible."""
        ranked = {name: found for name, found in scores.items() if name not in self.fixed}
        counts = self._above(ranked, self.ratio)
        if self.eased:
            easier = self._above(ranked, self.eased_ratio)
            counts |= {name: easier[name] for name in self.eased & easier.keys()}
        return {name: self.fixed.get(name, counts.get(name, 0)) for name in scores}

    def tied(self, scores: Mapping[str, Tensor]) -> int:
        """How many channels go beyond the ratio because they tie with a threshold."""
        if self.ratio is None:
            return 0
        ranked = {name: found for name, found in scores.items() if name not in self.fixed}
        return tied_channels(ranked, above_threshold(ranked, self.ratio, self.ranking), self.ratio)

    def settled(
        self, wanted: Mapping[str, float], groups: Sequence[ChannelGroup], bases: Mapping[str, int], min_channels: int
    ) -> dict[str, int]:
        """Channels that each group keeps: what it is to keep, rounded.

        A layer with a threshold of its own may lie half-way between two counts, and then it is the threshold's own
        channel that decides. Such layers go up and down in turn, so that together they lose what the ratio says.

        Args:
            wanted: by :meth:`kept`.
            groups: to settle.
            bases: group to what its count must divide by.
            min_channels: no layer keeps fewer.
        """
        counts, beyond = {}, 0.0
        for group in groups:
            name, base = group.name, bases[group.name]
            low = counts[name] = self.rounded(wanted[name], group, base, min_channels)
            if self.ratio is None or not self.is_half_way(group, base):
                continue
            high = self.rounded(wanted[name] + 1, group, base, min_channels)
            if high > low:
                counts[name], beyond = min(
                    ((kept, beyond + kept / group.channels - (1 - self.ratio)) for kept in (high, low)),
                    key=lambda found: round(abs(found[1]), 9),  # equally near: up
                )
        return counts

    def is_half_way(self, group: ChannelGroup, base: int) -> bool:
        """Whether the threshold's own channel may decide between two counts that lie far apart."""
        name = group.name
        ranked = self.ratio is not None and name in self._alone and name not in self.fixed and name not in self.eased
        rows = [len(axis.indices) for axis in group.coupled if axis.role == "rows"]
        return ranked and (base > 1 or min(rows, default=0) > group.channels)

    @cached_property
    def _alone(self) -> frozenset[str]:
        """Groups with a threshold of their own."""
        sizes = Counter(self.ranking.values())
        return frozenset(name for name, ranking in self.ranking.items() if name == ranking and sizes[ranking] == 1)

    def rounded(self, wanted: float, group: ChannelGroup, base: int, min_channels: int) -> int:
        """As :func:`rounded`; all, where nothing says that any should go."""
        told = self.ratio is None or group.name in self.fixed
        if told and wanted >= group.channels:
            return group.channels
        return rounded(wanted, group.channels, base, group.least(min_channels))

    def _above(self, scores: dict[str, Tensor], ratio: float | None) -> dict[str, int]:
        if ratio is None:
            return {name: found.numel() for name, found in scores.items()}
        return above_threshold(scores, ratio, self.ranking)


def ranking_of(groups: ChannelGroups, scope: Scope) -> dict[str, str]:
    """Group to the name of the set that it is ranked with.

    ``isomorphic`` puts groups together whose layers have the same types, kernels and places, whatever their widths
    (after Fang et al., "Isomorphic Pruning for Vision Models", arXiv:2407.04616).
    """
    if scope == "global":
        return dict.fromkeys((group.name for group in groups), "")
    if scope == "per_layer":
        return {group.name: group.name for group in groups}
    first: dict[tuple[object, ...], str] = {}
    return {group.name: first.setdefault(_structure(group, groups.trace.subject), group.name) for group in groups}


def above_threshold(scores: Mapping[str, Tensor], ratio: float, ranking: Mapping[str, str]) -> dict[str, int]:
    """Count what lies above the threshold: the score at index ``floor(n * ratio)`` of all n, sorted.

    A tie with the threshold goes, so that ties never keep more than ``ratio`` allows.

    Args:
        scores: group to ``[channels]``.
        ratio: in (0, 1).
        ranking: group to a name of the set of groups that share a threshold; those without a name share one.
    """
    together: dict[str, list[str]] = {}
    for name in scores:
        together.setdefault(ranking.get(name, ""), []).append(name)
    counts: dict[str, int] = {}
    for names in together.values():
        threshold = _threshold(torch.cat([scores[name] for name in names]), ratio)
        counts |= {name: int((scores[name] > threshold).sum()) for name in names}
    return {name: counts[name] for name in scores}


def tied_channels(scores: Mapping[str, Tensor], kept: Mapping[str, int], ratio: float) -> int:
    """How many channels went beyond ``ratio`` because they tie with a threshold; 0 for the usual one per threshold.

    Args:
        scores: group to ``[channels]``.
        kept: what :func:`above_threshold` said of them.
        ratio: in (0, 1).
    """
    count = sum(found.numel() for found in scores.values())
    beyond = count - math.floor(count * ratio + 1e-9) - sum(kept.values())
    return beyond if beyond > 2 * len(scores) else 0


def untied(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ranks in place of scores: of equal ones the later in its layer, relative to the width, goes first.

    So a threshold can lie anywhere, and where all scores are equal each layer loses the same share.
    """
    if not scores:
        return {}
    values = torch.cat(list(scores.values()))
    places = torch.cat([torch.arange(found.numel()) / found.numel() for found in scores.values()])
    order = places.argsort(descending=True, stable=True)
    order = order[values[order].argsort(stable=True)]
    ranks = torch.empty(len(values), dtype=torch.float64)
    ranks[order] = torch.arange(len(values), dtype=torch.float64)
    return dict(zip(scores, torch.split(ranks, [found.numel() for found in scores.values()]), strict=True))


def rounded(kept: float, channels: int, base: int, min_channels: int = 1) -> int:
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


def _threshold(scores: Tensor, ratio: float) -> Tensor:
    count = scores.numel()
    # 0.29 * 100 is 28.999…: the index a person expects is 29
    index = min(math.floor(count * ratio + 1e-9), count - 1)
    return scores.sort().values[index]


def _structure(group: ChannelGroup, model: nn.Module) -> tuple[object, ...]:
    """What two groups have in common that are the same but for their widths."""
    found = []
    for axis in group.coupled:
        path, _, attribute = axis.parameter.rpartition(".")
        module = model.get_submodule(path)
        kernel = tuple(getattr(module, attribute).shape[2:])
        found.append((type(module).__qualname__, attribute, axis.role, axis.axis, kernel, axis.groups > 1))
    return tuple(sorted(found))
