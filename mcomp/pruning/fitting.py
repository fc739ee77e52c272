"""Settle how many and which channels go, with the network's own code as the judge."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.pruning.allocation import Scope, above_threshold, rounded, tied_channels
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
from mcomp.pruning.channel_surgery import Cut, cut_channels, shared_copy
from mcomp.pruning.matching import Mismatch, balanced_base, blamed_for_failure, choose, narrow_shapes, split_groups
from mcomp.pruning.tracing import TraceFailure, trace_labels

NO_NORM = "has no batch norm, and `importance: bn_gamma` ranks by it (`importance: l1` does not need one)"


@dataclass
class Fitting:
    """Finds cuts that the network's own code agrees with, leaving groups whole until it does."""

    subject: nn.Module
    inputs: tuple[Tensor, ...]
    groups: ChannelGroups
    scores: dict[str, Tensor]
    ratio: float
    regular: int
    scope: Scope
    min_channels: int
    balanced: set[str] = field(default_factory=set)
    uncut: dict[str, str] = field(default_factory=dict)
    ties: int = 0

    def run(self) -> list[Cut]:
        """The cuts; empty where every count rounds up to the whole width.

        Raises:
            StageError: no group can be pruned.
        """
        while True:
            counts = self._counts()
            try:
                return self._cuts(counts)
            except Mismatch as mismatch:
                self._give_way(mismatch, {name for name, kept in counts.items() if kept < len(self.scores[name])})

    def notes(self) -> list[str]:
        """One sentence per reason, naming the layers it keeps whole, and one on ties."""
        layers: dict[str, list[str]] = {}
        for group in self.groups:
            reason = group.whole or self.uncut.get(group.name, "")
            if reason:
                layers.setdefault(reason, []).extend(group.producers)
        notes = [
            f"left whole: {', '.join(f'`{name}`' for name in names)}: {reason}" for reason, names in layers.items()
        ]
        if self.ties:
            notes.append(
                f"{self.ties} channels tie with the threshold and went beyond the ratio {self.ratio:g}; "
                "train with `sparse_train` first, or rank by `importance: l1`"
            )
        return notes

    def _counts(self) -> dict[str, int]:
        prunable = self.groups.prunable
        if not prunable:
            raise nothing_to_prune(self.groups)
        scores = {group.name: self.scores[group.name] for group in prunable}
        above = above_threshold(scores, self.ratio, self.scope)
        self.ties = tied_channels(scores, above, self.ratio)
        self.uncut = {}
        counts = {}
        for group in prunable:
            base = self._base(group)
            counts[group.name] = rounded(above[group.name], group.channels, base, self.min_channels)
            if counts[group.name] == group.channels:
                self.uncut[group.name] = (
                    f"{group.channels} channels hold no smaller multiple of {base}"
                    if base * 2 > group.channels
                    else f"{above[group.name]} of its {group.channels} channels lie above the threshold"
                )
        return counts

    def _base(self, group: ChannelGroup) -> int:
        base = group.base(self.regular)
        if group.name not in self.balanced:
            return base
        share = balanced_base(group, self.groups.trace)
        return math.lcm(base, share)

    def _cuts(self, counts: dict[str, int]) -> list[Cut]:
        shapes = narrow_shapes(self.groups, counts)
        if not shapes:
            return []
        narrow = cut_channels(shared_copy(self.subject), shapes)
        cut_groups = {name for name, kept in counts.items() if kept < len(self.scores[name])}
        try:
            routed = trace_labels(narrow, self.inputs, like=self.groups.trace)
        except TraceFailure as failure:
            raise self._refused(failure, cut_groups) from failure
        return choose(self.groups, routed, self.scores, cut_groups)

    def _refused(self, failure: TraceFailure, cut_groups: set[str]) -> Mismatch:
        """The network's code raised at the new widths: blame the groups it was working on."""
        names = [operation.name for operation in failure.operations]
        module = failure.operations[-1].module if names else ""
        blamed = blamed_for_failure(self.groups, names, module) & cut_groups
        where = f"`{module}`" if module else "its `forward`"
        return Mismatch(blamed, f"the code of {where} does not accept this width ({failure.cause})")

    def _give_way(self, mismatch: Mismatch, cut_groups: set[str]) -> None:
        """Ask the blamed groups for counts that keep every share; leave whole those that did so already."""
        # a split moves when any of its channels go, and then what fails may be the layers of another group
        blamed = mismatch.groups & cut_groups or split_groups(self.groups) & cut_groups
        if not blamed:
            raise StageError(
                f"the network cannot be pruned exactly: {mismatch.reason}",
                code="MC416",
                hint="keep the layers around it out with `ignore: [pattern]`",
            ) from mismatch
        whole = {}
        for group in self.groups:
            if group.name in blamed:
                if group.name in self.balanced or balanced_base(group, self.groups.trace) == 1:
                    whole[group.name] = mismatch.reason
                else:
                    self.balanced.add(group.name)
        self.groups = leave_whole(self.groups, whole)


def nothing_to_prune(groups: ChannelGroups) -> StageError:
    """The refusal of a model in which no channel can be cut, with the reasons."""
    reasons = {group.whole: group.name for group in groups}
    if reasons and set(reasons) <= {NO_NORM, "is an output of the network"} and NO_NORM in reasons:
        return StageError(
            "no layer can be ranked by `bn_gamma`: the network has no batch norm behind a prunable layer",
            code="MC412",
            hint="set `importance: l1`",
        )
    why = "; ".join(f"`{name}` {reason}" for reason, name in list(reasons.items())[:5])
    return StageError(
        "the network has no channel that can be pruned",
        code="MC411",
        why=why or "no convolution or linear layer was met in its forward",
        hint="leave the `prune` stage out, or change what keeps the layers whole",
    )


def leave_whole(groups: ChannelGroups, reasons: dict[str, str]) -> ChannelGroups:
    """The same groups, those named in ``reasons`` unprunable from here on."""
    changed = (replace(group, whole=group.whole or reasons.get(group.name, "")) for group in groups)
    return replace(groups, groups=tuple(changed))
