"""Where images come from: tensors in memory, or files decoded when they are asked for."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mcomp.data.cache import keep
from mcomp.data.decoding import VERSION, decode

DECODE_THREADS = 2
MEMORY_LIMIT = 1_500_000_000  # bytes of decoded images that are kept in memory


class Samples(Protocol):
    """Images and labels by position.

    Attributes:
        labels: ``(n,)`` int64.
        slow: True where fetching is worth doing ahead, on another thread.
    """

    labels: Tensor
    slow: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """One stored image's ``(C, H, W)``; C may be 1 where the model gets 3."""
        ...

    def fetch(self, indices: Tensor) -> Tensor:
        """``(len(indices), C, H, W)``, uint8 in 0..255 or float32 in 0..1."""
        ...

    def narrowed(self, positions: Tensor) -> Samples:
        """Only the samples at these positions, renumbered, in memory where they fit."""
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

    def narrowed(self, positions: Tensor) -> TensorSamples:
        """A copy of the samples at these positions."""
        if len(positions) == len(self.labels):
            return self
        return TensorSamples(self.fetch(positions), self.labels[positions])


class FileSamples:
    """Images decoded from files on demand, by threads.

    Args:
        files: one per sample.
        labels: ``(n,)`` int64.
        size: height and width wanted.
        channels: 1 or 3.
        content: digest of all files, which names what is kept in ``cache_dir``.
        cache_dir: where decoded images are kept; None to keep nothing.
    """

    slow = True

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        size: int,
        channels: int,
        content: str = "",
        cache_dir: Path | None = None,
    ) -> None:
        self.files = files
        self.labels = labels
        self.size = size
        self.channels = channels
        self.content = content
        self.cache_dir = cache_dir

    @property
    def shape(self) -> tuple[int, int, int]:
        """One decoded image's ``(C, H, W)``."""
        return self.channels, self.size, self.size

    def fetch(self, indices: Tensor) -> Tensor:
        """Decode the images at these positions.

        Raises:
            PreflightError: a file is not an image, or a damaged one.
        """
        images = torch.empty(len(indices), *self.shape, dtype=torch.uint8)

        def fill(start: int) -> None:
            for row in range(start, len(indices), DECODE_THREADS):
                images[row] = decode(self.files[int(indices[row])], self.size, self.channels)

        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            list(pool.map(fill, range(DECODE_THREADS)))
        return images

    def narrowed(self, positions: Tensor) -> TensorSamples | FileSamples:
        """Decode these samples into memory, or take them from the cache; stay on demand if they are too many."""
        labels = self.labels[positions]
        if len(positions) * self.channels * self.size**2 > MEMORY_LIMIT:
            files = [self.files[int(position)] for position in positions]
            return FileSamples(files, labels, self.size, self.channels)
        if self.cache_dir is None:
            return TensorSamples(self.fetch(positions), labels)
        chosen = hashlib.sha256(positions.numpy().tobytes()).hexdigest()
        key = hashlib.sha256(f"{VERSION} {self.content} {chosen} {self.size} {self.channels}".encode()).hexdigest()
        path = self.cache_dir / "images" / f"{key}.pt"
        images = _from_cache(path)
        if images is None or images.shape != (len(positions), *self.shape):
            images = self.fetch(positions)
            keep(path, lambda stream: torch.save(images, stream))
        return TensorSamples(images, labels)


def _from_cache(path: Path) -> Tensor | None:
    """Images mapped from disk; a damaged file is as good as none."""
    if not path.is_file():
        return None
    try:
        images = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return images if isinstance(images, Tensor) and images.dtype == torch.uint8 else None
