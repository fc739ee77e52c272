"""All slots of a trace in one table, so that what is asked of every site is computed at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcomp.pruning.labels import Role, Site

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Parameter, role and axis.
Key = tuple[str, Role, int]


@dataclass(frozen=True)
class Slots:
    """Slot by slot, the sites one behind the other.

    Attributes:
        keys: of the sites, in order.
        starts: ``[sites + 1]`` where each begins.
        sites: ``[slots]`` number of the site.
        places: ``[slots]`` position on the axis of the site.
        classes: ``[slots]`` class of the channel.
        groups: ``[slots]`` the group of the site that each falls into.
    """

    keys: tuple[Key, ...]
    starts: Integers
    sites: Integers
    places: Integers
    classes: Integers
    groups: Integers

    @classmethod
    def of(cls, sites: Mapping[Key, Site], classes: Tensor) -> Slots:
        """Those of all sites.

        Args:
            sites: settled.
            classes: ``[labels]``.
        """
        labels = [site.labels.numpy() for site in sites.values()]
        lengths = np.array([len(found) for found in labels], dtype=np.int64)
        starts = np.concatenate([[0], lengths.cumsum()])
        numbers = np.arange(len(labels)).repeat(lengths)
        places = np.arange(starts[-1]) - starts[numbers]
        groups = np.array([site.groups for site in sites.values()], dtype=np.int64)
        joined = np.concatenate([np.empty(0, np.int64), *labels])
        return cls(
            tuple(sites),
            starts,
            numbers,
            places,
            classes.numpy()[joined],
            places * groups[numbers] // lengths[numbers],
        )

    def of_role(self, *roles: Role) -> Flags:
        """``[slots]`` whether the site of each has one of these roles."""
        mine = np.array([key[1] in roles for key in self.keys], dtype=bool)
        return mine[self.sites]


def runs(*keys: NDArray[Any]) -> Iterator[slice]:
    """Where several arrays, side by side, hold the same values for a while."""
    if len(keys[0]):
        changes = np.zeros(len(keys[0]) - 1, dtype=bool)
        for key in keys:
            changes |= key[1:] != key[:-1]
        ends = [*(changes.nonzero()[0] + 1).tolist(), len(keys[0])]
        start = 0
        for end in ends:
            yield slice(start, end)
            start = end
