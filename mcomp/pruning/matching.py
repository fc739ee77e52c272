"""Which channels to keep, so that the pruned code routes each of them to the weights it was trained with.

Code decides where a channel goes: through a shuffle or a split, the place depends on how many channels there are. So
the narrow network is built first with arbitrary weights and traced as well. A channel's *signature* says where it
goes: into which group of which layer, into which piece of which split. For every signature the narrow network has a
number of channels; as many of the original channels of that signature are kept, the best ones, and every weight slice
follows the narrow network's own order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mcomp.pruning import signatures
from mcomp.pruning.channel_groups import ChannelGroup, ChannelGroups, group_of_class
from mcomp.pruning.channel_surgery import Cut
from mcomp.pruning.labels import Site, narrowed
from mcomp.pruning.slots import Integers, Key
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
    sites = trace.sites
    return [_cut(sites[key], torch.from_numpy(indices)) for key, indices in _slots(trace, narrow, wide_of)]


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


def _matched_classes(groups: ChannelGroups, narrow: Trace, scores: dict[str, Tensor], cut_groups: set[str]) -> Integers:
    """``[narrow labels]`` the original class that each class of the narrow network stands for; -1 elsewhere."""
    trace = groups.trace
    numbers = signatures.hashes(trace)
    wide, thin = signatures.signatures(trace, numbers), signatures.signatures(narrow, numbers)
    score = np.full(len(trace.classes), np.inf)
    for group in groups:
        if group.name in cut_groups:
            score[group.classes.numpy()] = scores[group.name].double().numpy()
    routes, of_place, places = np.unique(thin.values, return_inverse=True, return_counts=True)
    at = routes.searchsorted(wide.values).clip(max=len(routes) - 1)
    met = routes[at] == wide.values
    candidates, of_candidate = wide.classes[met], at[met]
    offered = np.bincount(of_candidate, minlength=len(routes))
    spare = np.bincount(of_candidate[np.isfinite(score[candidates])], minlength=len(routes))
    misfit = ((places > offered) | (offered - places > spare)).nonzero()[0]
    if len(misfit):
        blamed = _blamed(groups, narrow, torch.from_numpy(thin.classes[of_place == misfit[0]]), cut_groups)
        raise Mismatch(blamed, "its channels are routed by their number")
    best = np.lexsort((-score[candidates], of_candidate))  # of each route, the best first; of equal ones, the first
    rank = np.arange(len(best)) - (offered.cumsum() - offered)[of_candidate[best]]
    chosen = np.sort(best[rank < places[of_candidate[best]]])  # by class, as those of the narrow network are
    wide_of = np.full(len(narrow.classes), -1, dtype=np.int64)
    wide_of[thin.classes[of_place.argsort(kind="stable")]] = candidates[
        chosen[of_candidate[chosen].argsort(kind="stable")]
    ]
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


def _slots(trace: Trace, narrow: Trace, wide_of: Integers) -> Iterator[tuple[Key, Integers]]:
    """For each site that is cut, ``[narrow slots]`` the original slot that each takes its weights from."""
    whole, thin = trace.slots, narrow.slots
    groups = np.array([site.groups for site in trace.sites.values()], dtype=np.int64)
    number = {key: place for place, key in enumerate(whole.keys)}
    site_of = np.array([number[key] for key in thin.keys], dtype=np.int64)[thin.sites]
    kept = np.zeros(len(trace.classes), dtype=bool)
    kept[wide_of[wide_of >= 0]] = True
    givers = (kept[whole.classes] & ~whole.of_role("piece")).nonzero()[0]
    takers = (~thin.of_role("piece")).nonzero()[0]
    offered = whole.classes[givers] * groups[whole.sites[givers]] + whole.groups[givers]
    wanted = wide_of[thin.classes[takers]] * groups[site_of[takers]] + thin.groups[takers]
    giving, taking = np.lexsort((offered, whole.sites[givers])), np.lexsort((wanted, site_of[takers]))
    _check_pairs(trace, (whole.sites[givers[giving]], offered[giving]), (site_of[takers[taking]], wanted[taking]))
    sources = np.empty(len(thin.sites), dtype=np.int64)
    sources[takers[taking]] = whole.places[givers[giving]]
    moved = np.bincount(thin.sites, sources != thin.places, minlength=len(thin.keys)).tolist()
    starts, lengths = thin.starts.tolist(), np.diff(whole.starts).tolist()
    at = {key: place for place, key in enumerate(thin.keys)}
    for key, length in zip(whole.keys, lengths, strict=True):
        place = at[key]
        part = slice(starts[place], starts[place + 1])
        if key[1] != "piece" and (moved[place] or part.stop - part.start != length):
            yield key, sources[part]


def _check_pairs(trace: Trace, offered: tuple[Integers, Integers], wanted: tuple[Integers, Integers]) -> None:
    """See that every site is offered what it wants: sites, and for each slot the channel and its group, in order."""
    if all(np.array_equal(one, other) for one, other in zip(offered, wanted, strict=True)):
        return
    for place, site in enumerate(trace.sites.values()):
        if not np.array_equal(*(values[sites == place] for sites, values in (offered, wanted))):
            raise Mismatch(set(), f"`{site.key}` would read its channels in unequal numbers")


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
    return signatures.balanced_base(group.classes.numpy(), signatures.signatures(trace, signatures.hashes(trace)))
