"""Where each channel of a network goes: into which group of which layer, into which piece of which split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mcomp.pruning.slots import Integers, Key
from mcomp.pruning.tracing import Trace


@dataclass
class Signatures:
    """The routes of a network's channels.

    Attributes:
        classes: ``[present]`` classes that some site holds, ascending.
        values: ``[present]`` hash of the multiset of (site, group) that each of them occupies.
    """

    classes: Integers
    values: Integers


def hashes(trace: Trace) -> dict[Key, Integers]:
    """A random 64-bit number for each group of each site."""
    generator = torch.Generator().manual_seed(0)
    span = torch.iinfo(torch.int64)
    counts = [site.groups for site in trace.sites.values()]
    numbers = torch.randint(span.min, span.max, (sum(counts),), generator=generator).numpy()
    return dict(zip(trace.sites, np.split(numbers, np.cumsum(counts)[:-1]), strict=True))


def signatures(trace: Trace, numbers: dict[Key, Integers]) -> Signatures:
    """The route of each class, ``numbers`` being the same for two networks that are compared."""
    slots = trace.slots
    mine = [numbers[key] for key in slots.keys]
    starts = np.cumsum([0, *map(len, mine)])[:-1]
    if any(site.groups > len(found) for site, found in zip(trace.sites.values(), mine, strict=True)):
        raise IndexError("a site falls into more groups than its numbers are of")
    number = np.concatenate([np.empty(0, np.int64), *mine])[starts[slots.sites] + slots.groups]
    values = np.zeros(len(trace.classes), dtype=np.int64)
    np.add.at(values, slots.classes, number)  # sums of random 64-bit numbers, wrapping
    present = np.zeros(len(values), dtype=bool)
    present[slots.classes] = True
    classes = present.nonzero()[0]
    return Signatures(classes, values[classes])


def balanced_base(classes: Integers, found: Signatures) -> int:
    """The number that keeps every route of these classes at the same share, whatever the routing.

    Args:
        classes: ``[channels]`` of a group.
        found: of the network.
    """
    mine = found.values[np.isin(found.classes, classes)]
    _, counts = np.unique(mine, return_counts=True)
    return len(classes) // math.gcd(*counts.tolist())
