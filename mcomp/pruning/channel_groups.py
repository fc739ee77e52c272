"""The prunable units of a network: channels that stay or go together, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcomp.pruning.labels import Site, connected, distinct
from mcomp.pruning.signatures import balanced_base, hashes, signatures
from mcomp.pruning.tracing import Trace


@dataclass(frozen=True)
class CoupledAxis:
    """One axis of a parameter that is cut together with a group.

    Attributes:
        parameter: dotted name of the parameter or buffer.
        axis: the axis along which it is cut.
        role: ``rows`` (makes the channels), ``columns`` (reads them) or ``values`` (holds one number for each).
        indices: ``[slots]`` positions on the axis; for columns of a group convolution, in its whole input.
        members: ``[slots]`` the channel of the group, counted from 0, that each position belongs to.
        groups: convolution groups into which the whole axis falls.
    """

    parameter: str
    axis: int
    role: str
    indices: Tensor
    members: Tensor
    groups: int

    @property
    def layer(self) -> str:
        """The module, where the parameter is its ``weight``; else the parameter itself."""
        return layer_name(self.parameter)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that one or several coupled layers produce.

    Attributes:
        name: the first producing layer.
        classes: ``[channels]`` class of each channel in the trace, ascending.
        coupled: every parameter axis that is cut with them.
        whole: why nothing is cut here; empty where it can be.
        shares: of sets of slots that fall into groups which keep as many each: how many slots, how many groups.
        unit: the count of channels must divide by this, whatever else is asked.
    """

    name: str
    classes: Tensor
    coupled: tuple[CoupledAxis, ...]
    whole: str = ""
    shares: tuple[tuple[int, int], ...] = ()
    unit: int = 1

    @property
    def channels(self) -> int:
        """How many channels can stay or go independently."""
        return len(self.classes)

    @property
    def producers(self) -> tuple[str, ...]:
        """Layers whose output channels these are."""
        return self._layers("rows")

    @property
    def consumers(self) -> tuple[str, ...]:
        """Layers that sum over these channels."""
        return self._layers("columns")

    def base(self, regular: int = 1) -> int:
        """The number that the kept channel count must divide by.

        Every convolution that makes or reads these channels needs equally many in each of its groups, and every
        producer and reader a width that is a multiple of ``regular``.
        """
        result = self.unit
        for slots, groups in self.shares:
            result = math.lcm(result, self._step(slots, groups))
        for axis in self.coupled:
            wanted = 1 if axis.role == "values" else regular
            result = math.lcm(result, self._step(len(axis.indices), math.lcm(axis.groups, wanted)))
        return result

    def _step(self, slots: int, needed: int) -> int:
        """The least count of channels whose share of ``slots`` divides by ``needed``."""
        return needed * self.channels // math.gcd(needed * self.channels, slots)

    def _layers(self, role: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(axis.layer for axis in self.coupled if axis.role == role))

    def __str__(self) -> str:
        base = self.base()
        head = f"{self.name}: {self.channels} channels" + (f", in multiples of {base}" if base > 1 else "")
        lines = [head + (f" [whole: {self.whole}]" if self.whole else "")]
        for axis in self.coupled:
            grouped = f", {axis.groups} groups" if axis.groups > 1 else ""
            lines.append(f"{axis.role:>7} {axis.parameter}[axis {axis.axis}] × {len(axis.indices)}{grouped}")
        return "\n  ├─ ".join(lines[:-1]) + ("\n  └─ " if len(lines) > 1 else "") + lines[-1]


@dataclass(frozen=True)
class ChannelGroups:
    """Every group of a network, in order of execution. Prints as a tree.

    Attributes:
        groups: prunable ones and those left whole.
        trace: what they were derived from.
    """

    groups: tuple[ChannelGroup, ...]
    trace: Trace = field(repr=False)

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups from which channels can be cut."""
        return tuple(group for group in self.groups if not group.whole)

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        return "\n".join(str(group) for group in self.groups)


def layer_name(parameter: str) -> str:
    """``features.0.weight`` to ``features.0``; a parameter that is no ``weight`` keeps its name."""
    return parameter.removesuffix(".weight")


def group_of_class(trace: Trace) -> Tensor:
    """``[labels]``: at each class's own label, the smallest class of its group.

    Classes that share the rows of a layer are one group.
    """
    pairs = [torch.empty((2, 0), dtype=torch.int64)]
    for site in trace.sites.values():
        if site.role == "rows":
            rows = trace.classes[site.labels]
            pairs.append(torch.stack([rows, rows[:1].expand_as(rows)]))
    return connected(len(trace.classes), torch.cat(pairs, dim=1))


def channel_groups(trace: Trace) -> ChannelGroups:
    """Collect the channels of each set of coupled layers."""
    group_of = group_of_class(trace)
    axes: dict[int, list[CoupledAxis]] = {}
    classes: dict[int, Tensor] = {}
    names: dict[int, str] = {}
    for site in trace.sites.values():
        if site.role == "rows":
            found = trace.classes[site.labels]
            root = int(group_of[found[0]])
            if root not in names:
                name = layer_name(site.key)  # a matrix that is an embedding and an output layer too makes two groups
                names[root] = name if name not in names.values() else f"{site.key}[axis {site.axis}]"
            classes[root] = distinct(torch.cat([classes.get(root, found[:0]), found]))
    for site in trace.sites.values():
        if site.role == "piece":
            continue
        slots = trace.classes[site.labels]
        owners = group_of[slots]
        for root in distinct(owners).tolist():
            if root in names:
                axes.setdefault(root, []).append(_axis(site, slots, owners == root, classes[root]))
    shares = _shares(trace, group_of)
    routes = signatures(trace, hashes(trace))
    groups = [
        ChannelGroup(
            name,
            classes[root],
            tuple(axes[root]),
            _why_whole(trace, classes[root], axes[root]),
            tuple(shares.get(root, ())),
            balanced_base(classes[root], routes) if _uneven(axes[root], len(classes[root])) else 1,
        )
        for root, name in names.items()
    ]
    return ChannelGroups(tuple(groups), trace)


def _shares(trace: Trace, group_of: Tensor) -> dict[int, list[tuple[int, int]]]:
    """For each group, the sets of its slots of which every head, or every group of a norm, keeps as many."""
    found: dict[int, list[tuple[int, int]]] = {}
    for site in trace.sites.values():
        if site.role == "piece" and site.groups > 1:
            owners = group_of[trace.classes[site.labels]]
            for root in distinct(owners).tolist():
                found.setdefault(root, []).append((int((owners == root).sum()), site.groups))
    return found


def _uneven(axes: list[CoupledAxis], channels: int) -> bool:
    """Whether some channels hold more filters of a layer than others, as where one layer makes keys and values."""
    counts = [torch.bincount(axis.members, minlength=channels) for axis in axes if axis.role == "rows"]
    return any(distinct(held[held > 0]).numel() > 1 for held in counts)


def _axis(site: Site, slots: Tensor, mine: Tensor, classes: Tensor) -> CoupledAxis:
    indices = mine.nonzero().flatten()
    members = torch.searchsorted(classes, slots[indices])
    return CoupledAxis(site.key, site.axis, site.role, indices, members, site.groups)


def _why_whole(trace: Trace, classes: Tensor, axes: list[CoupledAxis]) -> str:
    for found in classes.tolist():
        if found in trace.whole:
            return trace.whole[found]
    if len(classes) == 1:
        rows = max(len(axis.indices) for axis in axes if axis.role == "rows")
        return "has a single channel" if rows == 1 else "is mixed or coupled across all of its channels"
    return ""
