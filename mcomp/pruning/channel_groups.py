"""The prunable units of a network: channels that stay or go together, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcomp.pruning.labels import connected
from mcomp.pruning.signatures import Signatures, balanced_base, hashes, signatures
from mcomp.pruning.slots import Flags, Integers, runs
from mcomp.pruning.tracing import Trace

#: Modules with a weight that makes channels.
_LAYERS = (_ConvNd, nn.Linear, nn.Embedding, nn.RNNBase)


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

    def least(self, min_channels: int) -> int:
        """Fewest channels with which each layer that makes some of them keeps ``min_channels`` of its own."""
        rows = [len(axis.indices) for axis in self.coupled if axis.role == "rows"]
        return max([min_channels, *(math.ceil(min_channels * self.channels / made) for made in rows)])

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

    @property
    def unled(self) -> dict[str, str]:
        """Layers that make no group's channels, and why: what they multiply with is not a weight of their own."""
        subject = self.trace.subject
        names = {axis.parameter for group in self.groups for axis in group.coupled if axis.role == "rows"}
        # a tied weight has a name in each of its layers; a name that is none of these is a buffer's
        rows = {id(own) for name, own in subject.named_parameters(remove_duplicate=False) if name in names}
        met = {key for key, _, _ in self.trace.sites}
        found = {}
        for path, module in subject.named_modules():
            if isinstance(module, _LAYERS) and not any(id(own) in rows for own in module._parameters.values()):
                own = [f"{path}.{name}" for name, _ in module.named_parameters()]
                frozen = [self.trace.frozen[name] for name in own if name in self.trace.frozen]
                computed = "its weight is computed in the forward" if met & {*own} else "is not called in the forward"
                found[path] = frozen[0] if frozen else computed
        return found

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
    slots = trace.slots
    rows = slots.of_role("rows")
    classes, first = slots.classes[rows], slots.classes[slots.starts[slots.sites[rows]]]
    return connected(len(trace.classes), torch.from_numpy(np.stack([classes, first])))


def channel_groups(trace: Trace) -> ChannelGroups:
    """Collect the channels of each set of coupled layers."""
    group_of = group_of_class(trace).numpy()
    names = _names(trace, group_of)
    classes = _classes(trace, group_of)
    axes = _axes(trace, group_of, classes)
    shares = _shares(trace, group_of)
    routes: Signatures | None = None
    whole = np.zeros(len(trace.classes), dtype=bool)
    whole[list(trace.whole)] = True
    groups = []
    for root, name in names.items():
        unit = 1
        if _uneven(axes[root], len(classes[root])):
            routes = routes or signatures(trace, hashes(trace))
            unit = balanced_base(classes[root], routes)
        why = _why_whole(trace, classes[root], axes[root], whole)
        mine = torch.from_numpy(classes[root])
        groups.append(ChannelGroup(name, mine, tuple(axes[root]), why, tuple(shares.get(root, ())), unit))
    return ChannelGroups(tuple(groups), trace)


def _names(trace: Trace, group_of: Integers) -> dict[int, str]:
    """Each group's root, in order of execution, to the name of its first layer."""
    slots = trace.slots
    names: dict[int, str] = {}
    for number, (parameter, role, axis) in enumerate(slots.keys):
        if role == "rows":
            root = int(group_of[slots.classes[slots.starts[number]]])
            if root not in names:
                name = layer_name(parameter)  # a matrix that is an embedding and an output layer too makes two groups
                names[root] = name if name not in names.values() else f"{parameter}[axis {axis}]"
    return names


def _classes(trace: Trace, group_of: Integers) -> dict[int, Integers]:
    """Root to ``[channels]``, ascending: the classes of all rows."""
    slots = trace.slots
    held = np.zeros(len(trace.classes), dtype=bool)
    held[slots.classes[slots.of_role("rows")]] = True
    rows = held.nonzero()[0]
    owners = group_of[rows]
    order = owners.argsort(kind="stable")
    return {int(owners[order[part.start]]): rows[order[part]] for part in runs(owners[order])}


def _axes(trace: Trace, group_of: Integers, classes: dict[int, Integers]) -> dict[int, list[CoupledAxis]]:
    """Root to every parameter axis that is cut with it, in the order of the sites."""
    slots = trace.slots
    member = np.zeros(len(trace.classes), dtype=np.int64)
    known = np.zeros(len(trace.classes), dtype=bool)
    for root, found in classes.items():
        member[found] = np.arange(len(found))
        known[root] = True
    owners = group_of[slots.classes]
    mine = (known[owners] & ~slots.of_role("piece")).nonzero()[0]
    order = mine[np.lexsort((owners[mine], slots.sites[mine]))]
    places, members = torch.from_numpy(slots.places[order]), torch.from_numpy(member[slots.classes[order]])
    sites = list(trace.sites.values())
    axes: dict[int, list[CoupledAxis]] = {}
    for part in runs(slots.sites[order], owners[order]):
        site, root = sites[slots.sites[order[part.start]]], int(owners[order[part.start]])
        axis = CoupledAxis(site.key, site.axis, site.role, places[part], members[part], site.groups)
        axes.setdefault(root, []).append(axis)
    return axes


def _shares(trace: Trace, group_of: Integers) -> dict[int, list[tuple[int, int]]]:
    """For each group, the sets of its slots of which every head, or every group of a norm, keeps as many."""
    slots = trace.slots
    found: dict[int, list[tuple[int, int]]] = {}
    for number, site in enumerate(trace.sites.values()):
        if site.role == "piece" and site.groups > 1:
            owners = group_of[slots.classes[slots.starts[number] : slots.starts[number + 1]]]
            for root, count in zip(*np.unique(owners, return_counts=True), strict=True):
                found.setdefault(int(root), []).append((int(count), site.groups))
    return found


def _uneven(axes: list[CoupledAxis], channels: int) -> bool:
    """Whether some channels hold more filters of a layer than others, as where one layer makes keys and values."""
    counts = [np.bincount(axis.members.numpy(), minlength=channels) for axis in axes if axis.role == "rows"]
    return any(held[held > 0].min() != held.max() for held in counts)


def _why_whole(trace: Trace, classes: Integers, axes: list[CoupledAxis], whole: Flags) -> str:
    mine = classes[whole[classes]]
    if len(mine):
        return trace.whole[int(mine[0])]
    if len(classes) == 1:
        rows = max(len(axis.indices) for axis in axes if axis.role == "rows")
        return "has a single channel" if rows == 1 else "is mixed or coupled across all of its channels"
    return ""
