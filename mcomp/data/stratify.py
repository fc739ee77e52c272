"""Splits that keep the classes' proportions and never depend on a recipe's seed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mcomp.data.draws import permutation
from mcomp.errors import PreflightError

# The splits of a data set never move, so runs with other seeds are measured on the same test images.
SPLIT_SEED = 20_150_401


def hold_out(labels: NDArray[np.int64], fraction: float, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that stay and positions held out, both ascending.

    ``ceil(n * fraction)`` samples are held out; each class gives its share, rounded down or up.

    Args:
        labels: one per sample.
        fraction: held-out part, between 0 and 1.
        name: of the held-out split, for messages.

    Raises:
        PreflightError: a class would keep no sample, or nothing would be held out.
    """
    held = choose(labels, math.ceil(len(labels) * fraction - 1e-9))
    stay = np.setdiff1d(np.arange(len(labels)), held, assume_unique=True)
    lost = np.setdiff1d(labels, labels[stay])
    if len(lost) or not len(held):
        raise PreflightError(
            f"{len(labels)} images are too few to hold {fraction:g} of them out for `{name}`",
            code="MC221",
            why=f"class {lost[0]} would keep no image" if len(lost) else "the held-out split would be empty",
            hint="add images, or change the fraction",
        )
    return stay, held


def choose(labels: NDArray[np.int64], n: int, seed: int = SPLIT_SEED) -> NDArray[np.int64]:
    """``n`` positions, ascending, the classes in proportion (largest remainders)."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (n / max(len(labels), 1))
    quota = np.floor(exact).astype(np.int64)
    for index in np.argsort(quota - exact, kind="stable")[: n - int(quota.sum())]:
        quota[index] += 1
    chosen = [
        members[permutation(len(members), seed, int(label))[:count]]
        for label, count in zip(classes, quota, strict=True)
        for members in [np.flatnonzero(labels == label)]
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
