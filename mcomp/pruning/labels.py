"""Channel labels: an integer per tensor element, equal along every dimension that does not carry channels.

A label array has the shape of its tensor, but costs almost nothing: dimensions along which it does not vary
have stride 0. Shape operations are applied to it as they are applied to the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

#: What a site does with its channels: makes them, reads them, holds a value for each, or receives some of them.
Role = Literal["rows", "columns", "values", "piece"]

#: The label of constants that are the same everywhere: they are of whatever channels they meet.
NONE = 0

#: The label of what is of no channel, such as the scores of attention: nor are the parameters that are added to it.
SETTLED = 1


@dataclass
class Site:
    """A place with one slot per channel: an axis of a parameter, or one piece of a split.

    Attributes:
        key: dotted name of the parameter; ``#split.piece`` for a piece.
        role: ``rows`` (output channels of a weight), ``columns`` (its input channels), ``values`` (an element per
            channel, as in a batch norm) or ``piece``.
        axis: axis of the parameter; -1 while not known.
        labels: ``[slots]`` label of each slot; of ``values`` sites in the parameter's own shape until settled.
        groups: number of convolution groups into which the slots fall.
        operation: index of the op that first met it.
    """

    key: str
    role: Role
    axis: int
    labels: Tensor
    groups: int = 1
    operation: int = 0


@dataclass
class LabelSpace:
    """All labels of one traced forward, which of them belong together, and which may not be pruned.

    ``NONE`` and ``SETTLED`` couple with nothing.
    """

    size: int = SETTLED + 1
    fixed: list[tuple[Tensor, str]] = field(default_factory=list)
    _pairs: list[Tensor] = field(default_factory=list)

    def fresh(self, count: int) -> Tensor:
        """``count`` labels that nobody has yet."""
        labels = torch.arange(self.size, self.size + count)
        self.size += count
        return labels

    def opaque(self, shape: torch.Size, reason: str) -> Tensor:
        """One unprunable label for a whole tensor that does not come from a known layer."""
        label = self.fresh(1)
        self.fix(label, reason)
        return label.reshape([1] * len(shape)).expand(shape)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Nothing that carries one of these labels can be pruned."""
        found = distinct(narrowed(labels))
        self.fixed.append((found[found > SETTLED], reason))

    def couple(self, a: Tensor, b: Tensor) -> None:
        """Elements at the same position stay or go together. The shapes broadcast."""
        shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
        a, b = a.expand(shape), b.expand(shape)
        for dim in range(a.ndim):
            if a.shape[dim] > 1 and a.stride(dim) == 0 and b.stride(dim) == 0:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        different = (a != b) & (a > SETTLED) & (b > SETTLED)
        if bool(different.any()):
            pairs = distinct((a[different] << 32) + b[different])
            self._pairs.append(torch.stack([pairs >> 32, pairs & 0xFFFFFFFF]))

    def classes(self) -> Tensor:
        """``[labels]``: the smallest label of each label's coupled class."""
        pairs = torch.cat(self._pairs, dim=1) if self._pairs else torch.empty((2, 0), dtype=torch.int64)
        return connected(self.size, pairs)


def connected(size: int, pairs: Tensor) -> Tensor:
    """Smallest member of each node's connected component; ``pairs`` is ``[2, edges]``."""
    root = torch.arange(size)
    while True:
        low = root[pairs].amin(0)
        hooked = root.clone()
        # hook whole trees, not nodes: long chains then take a logarithmic number of rounds
        for end in (0, 1):
            hooked.scatter_reduce_(0, root[pairs[end]], low, "amin")
        while not torch.equal(hooked, hooked[hooked]):
            hooked = hooked[hooked]
        if torch.equal(hooked, root):
            return root
        root = hooked


def distinct(values: Tensor) -> Tensor:
    """The different values, ascending."""
    ordered = values.flatten().sort().values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def varies(labels: Tensor, dim: int) -> bool:
    """Whether elements along ``dim`` carry different labels."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())


def compressed(labels: Tensor) -> Tensor:
    """The same labels, stride 0 along every dimension where they do not vary."""
    shape = labels.shape
    for dim in range(labels.ndim):
        if not varies(labels, dim):
            labels = labels.narrow(dim, 0, min(1, shape[dim]))
    return labels.expand(shape)


def narrowed(labels: Tensor) -> Tensor:
    """The same labels without their repetition: size 1 along every stride-0 dimension."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels
