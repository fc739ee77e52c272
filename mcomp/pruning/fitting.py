"""Settle how many and which channels go, with the network's own code as the judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mcomp.errors import StageError
from mcomp.pruning.allocation import Allocation
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups
from mcomp.pruning.channel_surgery import Cut, Surgery, Width, cut_channels, restored
from mcomp.pruning.labels import narrowed
from mcomp.pruning.matching import (
    Mismatch,
    balanced_base,
    blamed_for_failure,
    choose,
    groups_of_labels,
    narrow_shapes,
    split_groups,
)
from mcomp.pruning.passes import TraceFailure, trace_labels
from mcomp.pruning.salvage import largest_that_works
from mcomp.pruning.scaling import rescalings
from mcomp.pruning.tracing import Trace
from mcomp.pruning.whole_layers import left_whole
from mcomp.pruning.widths import Rule, WidthRules

NO_NORM = "has no batch norm, and `importance: bn_gamma` ranks by it (`importance: l1` does not need one)"


@dataclass
class Fitting:
    """Finds cuts that the network's own code agrees with, leaving groups whole until it does.

    What the code refuses is tried in turn with the attributes of its modules that hold widths brought in line, with
    counts that keep the share of every route, with the same share in all groups of that module, and left whole.

    Attributes:
        groups: of the network.
        scores: group to ``[channels]``.
        allocation: which share of each group's channels stays.
        regular: every width that is cut is a multiple of it.
        min_channels: no group keeps fewer.
        balanced: groups whose counts keep every route's share.
        tied: sets of groups that keep the same share.
        uncut: group to the reason why its count came out as its whole width.
        rules: attributes that hold widths.
        ties: channels that went beyond the ratio because they tie with the threshold.
        macs: of the pruned network, for the whole batch.
    """

    groups: ChannelGroups
    scores: dict[str, Tensor]
    allocation: Allocation
    regular: int
    min_channels: int
    balanced: set[str] = field(default_factory=set)
    tied: list[set[str]] = field(default_factory=list)
    uncut: dict[str, str] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    ties: int = 0
    macs: int = 0
    _bases: dict[tuple[str, bool], int] = field(default_factory=dict)
    _accused: list[set[str]] = field(default_factory=list)
    _untied: list[set[str]] = field(default_factory=list)

    def run(self) -> Surgery:
        """What to do; no cuts where every count rounds up to the whole width.

        Raises:
            StageError: no group can be pruned.
        """
        while True:
            counts = self.counts()
            try:
                surgery = self._surgery(counts)
            except Mismatch as mismatch:
                self._give_way(mismatch, {name for name, kept in counts.items() if kept < len(self.scores[name])})
                continue
            if not self._accused:
                return surgery
            self._acquit()

    def leave(self, surgery: Surgery, reason: str) -> bool:
        """Leave whole the groups whose weights had to be multiplied; False where none is left to be pruned."""
        layers = {change.parameter for change in surgery.rescalings}
        blamed = {
            group.name for group in self.groups.prunable if any(axis.parameter in layers for axis in group.coupled)
        }
        self.groups = leave_whole(self.groups, dict.fromkeys(blamed, reason))
        return bool(blamed)

    def leave_what_fails(self, works: Callable[[Surgery], bool], reason: str) -> bool:
        """Leave whole what cannot be pruned together with the rest; False where nothing would be left to be pruned.

        Args:
            works: whether a pruned network is right.
            reason: why the others stay.
        """
        before, prunable = self.groups, [group.name for group in self.groups.prunable]

        def pruned_alone(names: set[str]) -> bool:
            self.groups = leave_whole(before, dict.fromkeys({*prunable} - names, reason))
            try:
                return bool(names) and works(self._surgery(self.counts()))
            except Mismatch:
                return False

        found = largest_that_works(prunable, pruned_alone)
        self.groups = leave_whole(before, dict.fromkeys({*prunable} - found, reason))
        return 0 < len(found) < len(prunable)

    def _acquit(self) -> None:
        """Prune those groups after all that were left whole with others, and were not the ones at fault."""
        for names in self._accused:
            before = self.groups

            def also(readmitted: set[str], before: ChannelGroups = before) -> bool:
                self.groups = readmit(before, readmitted)
                try:
                    self._surgery(self.counts())
                except Mismatch:
                    return False
                return True

            self.groups = readmit(before, largest_that_works(sorted(names), also))
        self._accused = []

    def notes(self) -> list[str]:
        """One sentence per reason, naming the layers it keeps whole, and one on ties."""
        layers: dict[str, list[str]] = {}
        for group in self.groups:
            reason = group.whole or self.uncut.get(group.name, "")
            if reason:
                layers.setdefault(reason, []).extend(group.producers)
        for name, reason in self.groups.unled.items():
            layers.setdefault(reason, []).append(name)
        notes = [left_whole(names, reason) for reason, names in layers.items()]
        if self.ties:
            notes.append(
                f"{self.ties} channels tie with the threshold and went beyond the ratio {self.allocation.ratio:g}; "
                "train with `sparse_train` first, or rank by `importance: l1`"
            )
        return notes

    def counts(self) -> dict[str, int]:
        """What each prunable group keeps by the present allocation, rounded to what is known to be possible.

        Raises:
            StageError: no group can be pruned.
        """
        prunable = self.groups.prunable
        if not prunable:
            raise nothing_to_prune(self.groups)
        scores = {group.name: self.scores[group.name] for group in prunable}
        wanted = self.allocation.kept(scores)
        self.ties = self.allocation.tied(scores)
        bases = {group.name: self.base(group) for group in prunable}
        counts = self.allocation.settled(wanted, prunable, bases, self.min_channels)
        self.uncut = {
            group.name: self._why_uncut(group, bases[group.name], wanted[group.name])
            for group in prunable
            if counts[group.name] == group.channels
        }
        self._tie(counts)
        return counts

    def _why_uncut(self, group: ChannelGroup, base: int, wanted: float) -> str:
        if self.min_channels > wanted and self.min_channels > group.channels - base:
            return f"`min_channels` is {self.min_channels}, of {group.channels} channels in steps of {base}"
        if base * 2 > group.channels:
            return f"{group.channels} channels hold no smaller multiple of {base}"
        if group.name in self.allocation.fixed:
            return f"it was told to keep {wanted:.4g} of its {group.channels} channels"
        if self.allocation.ratio is None:
            return "nothing says how much of it goes"
        return f"{wanted:g} of its {group.channels} channels lie above the threshold"

    def base(self, group: ChannelGroup) -> int:
        """What the count of a group must divide by, as far as is known."""
        key = group.name, group.name in self.balanced
        if key not in self._bases:
            base = group.base(self.regular)
            self._bases[key] = math.lcm(base, balanced_base(group, self.groups.trace)) if key[1] else base
        return self._bases[key]

    def tied_sets(self) -> list[tuple[list[str], list[float]]]:
        """Each tied set of two groups and more, in the order of names, with the shares below 1 that all can have."""
        groups = {group.name: group for group in self.groups.prunable}
        found = [[groups[name] for name in sorted(names & groups.keys())] for names in self.tied]
        return [([group.name for group in mine], self._common_shares(mine)) for mine in found if len(mine) > 1]

    def _tie(self, counts: dict[str, int]) -> None:
        """Give the groups of each tied set the share, of those that all of them can have, that is nearest."""
        groups = {group.name: group for group in self.groups.prunable}
        for names in list(self.tied):
            mine = [groups[name] for name in sorted(names & groups.keys())]
            if len(mine) < 2:
                continue
            shares = self._common_shares(mine)
            if not shares:  # tied, none of them could go: another way has to be found
                self.tied.remove(names)
                self._untied.append(names)
                continue
            wanted = sum(counts[group.name] for group in mine) / sum(group.channels for group in mine)
            share = min([*shares, 1.0], key=lambda share: (abs(share - wanted), share))
            for group in mine:
                counts[group.name] = round(group.channels * share)
                self.uncut.pop(group.name, None)
                if share == 1:
                    self.uncut[group.name] = f"with the layers around it, {wanted:.0%} are to stay: nearest to all"

    def _common_shares(self, groups: list[ChannelGroup]) -> list[float]:
        """Those below 1 that all of the groups can have."""
        smallest = min(groups, key=lambda group: group.channels // self.base(group))
        step = self.base(smallest)
        return [
            kept / smallest.channels
            for kept in range(step, smallest.channels, step)
            if all(self._takes(group, kept, smallest.channels) for group in groups)
        ]

    def _takes(self, group: ChannelGroup, kept: int, channels: int) -> bool:
        """Whether the group can keep ``kept / channels`` of its channels."""
        count = group.channels * kept
        least = min(group.least(self.min_channels), group.channels)
        return count % (channels * self.base(group)) == 0 and count // channels >= least

    def _surgery(self, counts: dict[str, int]) -> Surgery:
        shapes = narrow_shapes(self.groups, counts)
        if not shapes:
            self.macs = self.groups.trace.macs
            return Surgery()
        cut_groups = {name for name, kept in counts.items() if kept < len(self.scores[name])}
        routed, widths = self._routed(shapes, counts, cut_groups)
        cuts = choose(self.groups, routed, self.scores, cut_groups)
        changes = rescalings(self.groups.trace, routed, cuts)
        self.macs = routed.macs
        return Surgery(tuple(cuts), tuple(widths), tuple(changes))

    def _routed(self, shapes: list[Cut], counts: dict[str, int], cut_groups: set[str]) -> tuple[Trace, list[Width]]:
        """Trace the network at its new widths, with whatever attributes its code then goes furthest."""
        known = WidthRules(self.groups, counts)
        self.rules += [rule for rule in known.head_rules() if rule not in self.rules]
        accepted, trial = list(self.rules), list(self.rules)
        waiting: list[Rule] = []
        first: TraceFailure | None = None
        while True:
            widths, trace = known.changes(trial), self.groups.trace
            try:
                with restored(trace.subject):
                    routed = trace_labels(cut_channels(trace.subject, shapes, widths), trace.inputs, like=trace)
            except TraceFailure as failure:
                if first is None or len(failure.operations) > len(first.operations):  # it went further
                    first, accepted = failure, trial
                    waiting = [rule for rule in known.candidates(failure.module) if rule not in accepted]
                if not waiting:
                    raise self._refused(first, cut_groups) from first
                trial = [*accepted, waiting.pop(0)]
            else:
                if _keeps_heads(trace, routed) or not waiting:
                    self.rules = trial
                    return routed, widths
                trial = [*accepted, waiting.pop(0)]

    def _refused(self, failure: TraceFailure, cut_groups: set[str]) -> Mismatch:
        """The network's code raised at the new widths: blame the groups it was working on."""
        names = [operation.name for operation in failure.operations]
        module = failure.module
        blamed = blamed_for_failure(self.groups, names, module) & cut_groups
        where = f"`{module}`" if module else "its `forward`"
        cause = str(failure.cause).partition("\n")[0]
        return Mismatch(blamed, f"the code of {where} does not accept this width ({cause})", module)

    def _give_way(self, mismatch: Mismatch, cut_groups: set[str]) -> None:
        """Ask the blamed groups for counts that keep every share; leave whole those that did so already."""
        # a split moves when any of its channels go, and then what fails may be the layers of another group
        around = set() if mismatch.module is None else _met_in(self.groups, mismatch.module)
        suspects = (mismatch.groups, around, split_groups(self.groups))
        blamed = next((found & cut_groups for found in suspects if found & cut_groups), None)
        if blamed is None:
            if self.leave_what_fails(lambda _: True, mismatch.reason):
                return
            raise StageError(
                f"the network cannot be pruned exactly: {mismatch.reason}",
                code="MC416",
                hint="keep the layers around it out with `ignore: [pattern]`",
            ) from mismatch
        trace = self.groups.trace
        uneven = {
            group.name
            for group in self.groups
            if group.name in blamed - self.balanced and balanced_base(group, trace) not in (1, group.unit)
        }
        if uneven:
            self.balanced |= uneven
        elif mismatch.module is None or not self._tie_around(mismatch.module, cut_groups):
            if len(blamed) > 1:
                self._accused.append(blamed)
            whole = dict.fromkeys(blamed, mismatch.reason)
            self.groups = leave_whole(self.groups, whole | self._likewise(whole, mismatch.module))

    def _likewise(self, whole: Mapping[str, str], failed: str | None) -> dict[str, str]:
        """Groups of the same place and width in the other modules of the class that failed: they would fail in turn."""
        if not failed:
            return {}
        model, widths = self.groups.trace.subject, {group.name: group.channels for group in self.groups.prunable}
        cls, found = type(model.get_submodule(failed)), dict[str, str]()
        for path, module in model.named_modules():
            if type(module) is cls:
                for name, reason in whole.items():
                    twin = path + name.removeprefix(failed)
                    if name.startswith(f"{failed}.") and widths.get(twin) == widths.get(name):
                        found[twin] = reason
        return found

    def _tie_around(self, failed: str, cut_groups: set[str]) -> bool:
        """Tie the groups that meet in the module that failed, and in every other of its class; whether that is new.

        First only those that it makes itself, such as the directions of a recurrent layer; then those it reads as well.
        """
        model = self.groups.trace.subject
        cls = type(model.get_submodule(failed))
        alike = [path for path, module in model.named_modules() if type(module) is cls]
        prunable = {group.name for group in self.groups.prunable}  # one that was to stay whole may have to follow
        for meeting in (_made_in, _met_in):
            found = [meeting(self.groups, path) & prunable for path in alike]
            new = [self._tie_groups(names) for names in found if names & cut_groups]
            if any(new):
                return True
        return False

    def _tie_groups(self, names: set[str]) -> bool:
        if len(names) < 2 or any(names <= tied for tied in [*self.tied, *self._untied]):
            return False
        others = [tied for tied in self.tied if not tied & names]
        self.tied = [*others, names.union(*(tied for tied in self.tied if tied & names))]
        return True


def _keeps_heads(wide: Trace, narrow: Trace) -> bool:
    """Whether every product has as many heads as before; another attribute of the same value may have them."""
    return all(
        site.groups == narrow.sites[key].groups
        for key, site in wide.sites.items()
        if site.role == "piece" and key in narrow.sites
    )


def _met_in(groups: ChannelGroups, path: str) -> set[str]:
    """Groups whose channels the ops of a module and of those inside it work on."""
    operations = [*groups.trace.by_module.get(path, ()), *(groups.trace.inside(path) if path else ())]
    labels = [narrowed(found).flatten() for operation in operations for found in operation.labels]
    return groups_of_labels(groups, torch.cat(labels)) if labels else set()


def _made_in(groups: ChannelGroups, path: str) -> set[str]:
    """Groups of which a module, or one inside it, holds the rows."""
    start = f"{path}." if path else ""
    return {
        group.name
        for group in groups
        if any(axis.role == "rows" and axis.parameter.startswith(start) for axis in group.coupled)
    }


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


def readmit(groups: ChannelGroups, names: set[str]) -> ChannelGroups:
    """The same groups, those of ``names`` prunable again."""
    changed = (replace(group, whole="") if group.name in names else group for group in groups)
    return replace(groups, groups=tuple(changed))


def leave_whole(groups: ChannelGroups, reasons: dict[str, str]) -> ChannelGroups:
    """The same groups, those named in ``reasons`` unprunable from here on."""
    changed = (replace(group, whole=group.whole or reasons.get(group.name, "")) for group in groups)
    return replace(groups, groups=tuple(changed))
