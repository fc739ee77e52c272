"""Where images come from: tensors in memory, or files decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mcomp.data.decoding import decode

DECODE_THREADS = 2


class Samples(Protocol):
    """Images and labels by position.

    Attributes:
        labels: ``(n,)`` int64.
        shape: ``(C, H, W)`` of one image as stored; C may be 1 where the model gets 3.
        slow: True where fetching is worth doing ahead, on another thread.
    """

    labels: Tensor
    slow: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """One stored image's ``(C, H, W)``."""
        ...

    def fetch(self, indices: Tensor) -> Tensor:
        """``(len(indices), C, H, W)``, uint8 in 0..255 or float32 in 0..1."""
        ...


@dataclass
class TensorSamples:
    """Images held in memory (or mapped from a cache file)."""

    images: Tensor
    labels: Tensor
    slow: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """One stored image's ``(C, H, W)``."""
        _, c, h, w = self.images.shape
        return c, h, w

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at these positions."""
        return self.images.index_select(0, indices)


class FileSamples:
    """Images decoded from files on demand, by threads."""

    slow = True

    def __init__(self, files: Sequence[Path], labels: Tensor, size: int, channels: int) -> None:
        self.files = files
        self.labels = labels
        self.size = size
        self.channels = channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """One decoded image's ``(C, H, W)``."""
        return self.channels, self.size, self.size

    def fetch(self, indices: Tensor) -> Tensor:
        """Decode the images at these positions.

        Raises:
            PreflightError: a file is not an image, or a damaged one.
        """
        chosen = [self.files[int(index)] for index in indices]
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            return torch.stack(list(pool.map(lambda file: decode(file, self.size, self.channels), chosen)))
