"""Which channels to keep, so that the pruned code routes each of them to the weights it was trained with.

Code decides where a channel goes: through a shuffle or a split, the place depends on how many channels there are. So
the narrow network is built first with arbitrary weights and traced as well. A channel's *signature* says where it
goes: into which group of which layer, into which piece of which split. For every signature the narrow network has a
number of channels; as many of the original channels of that signature are kept, the best ones, and every weight slice
follows the narrow network's own order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.pruning import signatures
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups, group_of_class
from mcomp.pruning.channel_surgery import Cut
from mcomp.pruning.labels import Site, distinct, narrowed
from mcomp.pruning.tracing import Trace


class Mismatch(Exception):
    """The narrow network cannot keep what the original computes.

    Attributes:
        groups: to blame, perhaps none.
        reason: in words.
        module: whose code refused the widths; None where it took them and did something else with them.
    """

    def __init__(self, groups: set[str], reason: str, module: str | None = None) -> None:
        super().__init__(reason)
        self.groups = groups
        self.reason = reason
        self.module = module


def narrow_shapes(groups: ChannelGroups, counts: dict[str, int]) -> list[Cut]:
    """Cuts that give every parameter its final shape, with no regard for which channels are kept.

    Args:
        groups: of the original network.
        counts: group to kept channels; groups left out stay whole.

    Raises:
        Mismatch: some axis cannot have such a width.
    """
    removed: dict[tuple[str, str, int], int] = {}
    users: dict[tuple[str, str, int], set[str]] = {}
    for group in groups:
        kept = counts.get(group.name, group.channels)
        if kept == group.channels:
            continue
        for axis in group.coupled:
            key = (axis.parameter, axis.role, axis.axis)
            users.setdefault(key, set()).add(group.name)
            slots = len(axis.indices)
            if slots * kept % group.channels:
                raise Mismatch({group.name}, f"its channels reach `{axis.layer}` in unequal numbers")
            removed[key] = removed.get(key, 0) + slots - slots * kept // group.channels
    cuts = []
    for site in groups.trace.sites.values():
        gone = removed.get((site.key, site.role, site.axis), 0)
        if gone:
            slots = len(site.labels)
            if (slots - gone) % site.groups:
                blamed = users[(site.key, site.role, site.axis)]
                raise Mismatch(blamed, f"the {site.groups} groups of `{site.key}` would differ in width")
            indices = torch.arange(slots).reshape(site.groups, -1)[:, : (slots - gone) // site.groups].flatten()
            cuts.append(_cut(site, indices))
    return cuts


def choose(groups: ChannelGroups, narrow: Trace, scores: dict[str, Tensor], cut_groups: set[str]) -> list[Cut]:
    """Pick the best channels that fit the narrow network's routing.

    Args:
        groups: of the original network.
        narrow: trace of the network with its final shapes.
        scores: group to ``[channels]``.
        cut_groups: groups that lose channels.

    Raises:
        Mismatch: no choice of channels fits.
    """
    trace = groups.trace
    if [tuple(shape) for shape in narrow.outputs] != [tuple(shape) for shape in trace.outputs]:
        raise Mismatch(set(), "the pruned network's outputs have another shape")
    if narrow.sites.keys() != trace.sites.keys():
        raise Mismatch(
            _of_other_sites(groups, narrow), "the code splits its channels at places that do not move with them"
        )
    wide_of = _matched_classes(groups, narrow, scores, cut_groups)
    kept = torch.zeros(len(trace.classes), dtype=torch.bool)
    kept[wide_of[wide_of >= 0]] = True
    cuts = []
    for key, site in trace.sites.items():
        if site.role == "piece":
            continue
        indices = _slots(site, trace, narrow.sites[key], narrow, wide_of, kept)
        if not torch.equal(indices, torch.arange(len(site.labels))):
            cuts.append(_cut(site, indices))
    return cuts


def _of_other_sites(groups: ChannelGroups, narrow: Trace) -> set[str]:
    """Groups that reach a site which only one of the two networks has."""
    trace = groups.trace
    labels = [trace.sites[key].labels for key in trace.sites.keys() - narrow.sites.keys()]
    for key, site in narrow.sites.items():
        if key not in trace.sites and site.operation < len(trace.operations):
            labels += [narrowed(found).flatten() for found in trace.operations[site.operation].labels]
    return groups_of_labels(groups, torch.cat(labels)) if labels else set()


def _cut(site: Site, indices: Tensor) -> Cut:
    return Cut(site.key, site.axis, site.role, indices, site.groups if site.role == "columns" else 1)


def _matched_classes(groups: ChannelGroups, narrow: Trace, scores: dict[str, Tensor], cut_groups: set[str]) -> Tensor:
    """``[narrow labels]`` the original class that each class of the narrow network stands for; -1 elsewhere."""
    trace = groups.trace
    numbers = signatures.hashes(trace)
    wide, thin = signatures.signatures(trace, numbers), signatures.signatures(narrow, numbers)
    score = torch.full((len(trace.classes),), torch.inf, dtype=torch.float64)
    for group in groups:
        if group.name in cut_groups:
            score[group.classes] = scores[group.name].double()
    wide_of = torch.full((len(narrow.classes),), -1)
    for signature in distinct(thin.values):
        places = thin.classes[thin.values == signature]
        candidates = wide.classes[wide.values == signature]
        spare = candidates[score[candidates].isfinite()]
        if len(places) > len(candidates) or len(candidates) - len(places) > len(spare):
            raise Mismatch(_blamed(groups, narrow, places, cut_groups), "its channels are routed by their number")
        best = score[candidates].sort(descending=True, stable=True).indices[: len(places)]
        wide_of[places] = candidates[best].sort().values
    return wide_of


def _blamed(groups: ChannelGroups, narrow: Trace, classes: Tensor, cut_groups: set[str]) -> set[str]:
    """Groups, among those that lose channels, that share a site with ``classes`` of the narrow network."""
    held = [key for key, site in narrow.sites.items() if bool(torch.isin(narrow.classes[site.labels], classes).any())]
    makers = [key for key in held if key[1] == "rows"]
    found: set[str] = set()
    for keys in (makers, held):
        labels = [groups.trace.sites[key].labels for key in keys]
        if labels and not found:
            found = groups_of_labels(groups, torch.cat(labels)) & cut_groups
    return found


def groups_of_labels(groups: ChannelGroups, labels: Tensor) -> set[str]:
    """Names of the groups that some of ``labels`` belong to."""
    group_of = group_of_class(groups.trace)
    roots = set(group_of[groups.trace.classes[labels]].tolist())
    return {group.name for group in groups if int(group_of[group.classes[0]]) in roots}


def _slots(site: Site, trace: Trace, thin: Site, narrow: Trace, wide_of: Tensor, kept: Tensor) -> Tensor:
    """``[narrow slots]`` the original slot that each slot of the narrow site takes its weights from."""
    classes = trace.classes[site.labels]
    survivors = kept[classes].nonzero().flatten()
    wanted = wide_of[narrow.classes[thin.labels]] * site.groups + signatures.group_of_slot(thin)
    offered = (classes * site.groups + signatures.group_of_slot(site))[survivors]
    wanted_order, offered_order = wanted.argsort(stable=True), offered.argsort(stable=True)
    if not torch.equal(wanted[wanted_order], offered[offered_order]):
        raise Mismatch(set(), f"`{site.key}` would read its channels in unequal numbers")
    indices = torch.empty_like(wanted)
    indices[wanted_order] = survivors[offered_order]
    return indices


def split_groups(groups: ChannelGroups) -> set[str]:
    """Groups of which some split takes a part."""
    labels = [site.labels for site in groups.trace.sites.values() if site.role == "piece"]
    return groups_of_labels(groups, torch.cat(labels)) if labels else set()


def blamed_for_failure(groups: ChannelGroups, narrow: list[str], module: str) -> set[str]:
    """Groups whose channels the last op of ``narrow``, at which the narrow network raised in ``module``, worked on."""
    operations = groups.trace.operations
    at = len(narrow) - 1
    same = 0 <= at < len(operations) and operations[at].name == narrow[at]
    suspects = [operations[at]] if same else [op for op in operations if op.module == module]
    labels = [narrowed(found).flatten() for op in suspects for found in op.labels]
    return groups_of_labels(groups, torch.cat(labels)) if labels else set()


def balanced_base(group: ChannelGroup, trace: Trace) -> int:
    """The number that keeps every signature of the group at the same share, whatever the routing."""
    return signatures.balanced_base(group.classes, signatures.signatures(trace, signatures.hashes(trace)))
