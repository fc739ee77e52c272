"""Random numbers as a pure function of their coordinates.

A draw depends on (seed, purpose, epoch, index) and on nothing drawn before, so a run that resumes in the
middle of an epoch, or uses another batch size, sees the same images. The mixing function is the
finaliser of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def draws(indices: NDArray[np.int64], *key: int) -> NDArray[np.uint64]:
    """One uniform 64-bit number for each index.

    Args:
        indices: coordinates, any shape.
        *key: the other coordinates, such as seed, purpose and epoch.
    """
    state = np.zeros(1, np.uint64)
    for word in key:
        state = _mix(state + _GOLDEN + np.uint64(word & _MASK))
    return _mix(state + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(indices: NDArray[np.int64], *key: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each index."""
    return (draws(indices, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """The numbers 0..n-1 in random order."""
    return np.argsort(draws(np.arange(n), *key), kind="stable")


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
