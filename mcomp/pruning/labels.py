"""Channel labels: an integer per tensor element, equal along every dimension that does not carry channels.

A label array has the shape of its tensor, but costs almost nothing: dimensions along which it does not vary
have stride 0. Shape operations are applied to it as they are applied to the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: What a site does with its channels: makes them, reads them, holds a value for each, or receives some of them.
Role = Literal["rows", "columns", "values", "piece"]

#: The label of constants that are the same everywhere: they are of whatever channels they meet.
NONE = 0

#: The label of what is of no channel, such as the scores of attention: nor are the parameters that are added to it.
SETTLED = 1

#: Pairs of labels that are stored with their repetitions at the most.
_MANY = 1 << 12

_ALL = slice(None)


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
    _pairs: list[NDArray[np.int64]] = field(default_factory=list)

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
        if a is b:
            return
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        steps = list(zip(a.shape, a.stride(), b.stride(), strict=True))
        sizes = [1 if size > 1 and one == other == 0 else size for size, one, other in steps]
        a, b = a.as_strided(sizes, a.stride()), b.as_strided(sizes, b.stride())
        different = a != b
        if not different.numpy().any():
            return
        mine, theirs = a[different].numpy(), b[different].numpy()
        coupled = (mine > SETTLED) & (theirs > SETTLED)
        pairs = (mine[coupled] << 32) + theirs[coupled]
        self._pairs.append(_distinct(pairs) if pairs.size > _MANY else pairs)

    def classes(self) -> Tensor:
        """``[labels]``: the smallest label of each label's coupled class."""
        pairs = _distinct(np.concatenate([np.empty(0, np.int64), *self._pairs]))
        return connected(self.size, torch.from_numpy(np.stack([pairs >> 32, pairs & 0xFFFFFFFF])))


def connected(size: int, pairs: Tensor) -> Tensor:
    """Smallest member of each node's connected component; ``pairs`` is ``[2, edges]``."""
    root = np.arange(size)
    first, second = pairs.numpy()
    while True:
        ends = root[first], root[second]
        apart = ends[0] != ends[1]
        if not apart.any():
            return torch.from_numpy(root)
        first, second = first[apart], second[apart]
        low = np.minimum(ends[0][apart], ends[1][apart])
        for end in ends:  # hook whole trees, not nodes: long chains then take a logarithmic number of rounds
            np.minimum.at(root, end[apart], low)
        while not np.array_equal(root, shorter := root[root]):
            root = shorter


def distinct(values: Tensor) -> Tensor:
    """The different values, ascending."""
    return torch.from_numpy(_distinct(values.numpy())) if values.numel() != 1 else values.reshape(1)


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    ordered = np.sort(values, axis=None)  # faster than numpy's own `unique` by far
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def varies(labels: Tensor, dim: int) -> bool:
    """Whether elements along ``dim`` carry different labels."""
    if labels.shape[dim] <= 1 or labels.stride()[dim] == 0:
        return False
    return _varies(labels.numpy(), dim)


def _varies(labels: NDArray[np.int64], dim: int) -> bool:
    if labels.size == 0:
        return False
    dim %= labels.ndim
    place = [0] * labels.ndim
    first = labels[tuple(place)]
    for place[dim] in (1, -1):  # these tell already of most that do
        if labels[tuple(place)] != first:
            return True
    return bool((labels != labels[(*[_ALL] * dim, slice(1))]).any())


def compressed(labels: Tensor) -> Tensor:
    """The same labels, stride 0 along every dimension where they do not vary."""
    values, steps = labels.numpy(), list(labels.stride())
    for dim, size in enumerate(labels.shape):
        if size > 1:
            if steps[dim] and not _varies(values, dim):
                steps[dim] = 0
            if not steps[dim]:
                values = values[(*[_ALL] * dim, slice(1))]
    return labels if tuple(steps) == labels.stride() else labels.as_strided(labels.shape, steps)


def narrowed(labels: Tensor) -> Tensor:
    """The same labels without their repetition: size 1 along every stride-0 dimension."""
    steps = labels.stride()
    if 0 not in steps:
        return labels
    sizes = [1 if step == 0 and size > 1 else size for step, size in zip(steps, labels.shape, strict=True)]
    return labels.as_strided(sizes, steps)


def lowest(labels: Tensor) -> int:
    """The smallest of the labels."""
    return int(narrowed(labels).min()) if labels.numel() else SETTLED + 1
