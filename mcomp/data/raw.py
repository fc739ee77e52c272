"""What a data set's reader hands over, before it is split and normalised."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcomp.data.samples import Samples

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where a reader may look and write.

    Attributes:
        base_dir: folder that relative paths start from; None for the current one.
        cache_dir: folder for decoded images; None to keep nothing.
        trust: whether a user's own code may run.
        seed: torch's and numpy's while a user's code runs.
    """

    base_dir: Path | None = None
    cache_dir: Path | None = None
    trust: bool = False
    seed: int = 0

    def path(self, text: str) -> Path:
        """``text`` from the recipe's point of view."""
        return (self.base_dir or Path()) / Path(text).expanduser()


@dataclass
class Raw:
    """Images with labels, and the splits that the source itself defines.

    Attributes:
        samples: all of them, in one place.
        class_names: in the order of the labels.
        train: positions; None means all that no other split has.
        val: positions; None to hold some of train out.
        test: positions; None to hold some of train out.
        mean: known figures per channel for pixels in 0..1; empty to measure them.
        std: the same.
        test_fraction: of everything, where ``test`` is None.
    """

    samples: Samples
    class_names: tuple[str, ...]
    train: Positions | None = None
    val: Positions | None = None
    test: Positions | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    test_fraction: float = 0.2
