"""Batches of whatever a model is called with: tensors, also in dictionaries and lists, beside plain values."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def samples_of(inputs: tuple[Any, ...]) -> int:
    """How many samples a batch holds: the length of its first tensor; 1 where there is none."""
    return next((len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), 1)


def first_sample(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch of the first sample alone."""
    return with_samples(inputs, 1)


def with_samples(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The inputs repeated or cut to ``batch`` samples, in memory of their own: a forward may write into them.

    What is no tensor stays, and so does a tensor of another length, such as a mask over positions.
    """
    samples = samples_of(inputs)

    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.ndim or not samples or len(leaf) != samples:
            return leaf.clone()
        repeats = -(-batch // min(batch, samples))
        return leaf[:batch].repeat(repeats, *[1] * (leaf.ndim - 1))[:batch].contiguous()

    found: tuple[Any, ...] = tree_map(taken, inputs)
    return found
