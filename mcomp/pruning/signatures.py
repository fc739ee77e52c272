"""Where each channel of a network goes: into which group of which layer, into which piece of which split."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.pruning.labels import Role, Site
from mcomp.pruning.tracing import Trace


@dataclass
class Signatures:
    """The routes of a network's channels.

    Attributes:
        classes: ``[present]`` classes that some site holds, ascending.
        values: ``[present]`` hash of the multiset of (site, group) that each of them occupies.
    """

    classes: Tensor
    values: Tensor


def hashes(trace: Trace) -> dict[tuple[str, Role, int], Tensor]:
    """A random 64-bit number for each group of each site."""
    generator = torch.Generator().manual_seed(0)
    span = torch.iinfo(torch.int64)
    return {
        key: torch.randint(span.min, span.max, (site.groups,), generator=generator) for key, site in trace.sites.items()
    }


def signatures(trace: Trace, numbers: dict[tuple[str, Role, int], Tensor]) -> Signatures:
    """The route of each class, ``numbers`` being the same for two networks that are compared."""
    values = torch.zeros(len(trace.classes), dtype=torch.int64)
    present = torch.zeros(len(trace.classes), dtype=torch.bool)
    for key, site in trace.sites.items():
        found = trace.classes[site.labels]
        values.index_add_(0, found, numbers[key][group_of_slot(site)])  # sums of random 64-bit numbers, wrapping
        present[found] = True
    classes = present.nonzero().flatten()
    return Signatures(classes, values[classes])


def group_of_slot(site: Site) -> Tensor:
    """``[slots]`` the group of the site that each slot falls into."""
    slots = len(site.labels)
    return torch.arange(slots) * site.groups // max(slots, 1)


def balanced_base(classes: Tensor, found: Signatures) -> int:
    """The number that keeps every route of these classes at the same share, whatever the routing.

    Args:
        classes: ``[channels]`` of a group.
        found: of the network.
    """
    mine = found.values[torch.isin(found.classes, classes)]
    return len(classes) // math.gcd(*Counter(mine.tolist()).values())
