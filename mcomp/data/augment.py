"""Shifts and flips of whole batches, on whatever device the batch is on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcomp.data.draws import draws, uniform

_FLIP, _DOWN, _RIGHT = 11, 12, 13  # purposes: which draw is which


@dataclass(frozen=True)
class Augmentation:
    """Random crop of a zero-padded image, and left-right flip.

    What happens to an image depends on (seed, epoch, its index) alone: not on the batch it is in,
    the device, or what was drawn before.

    Attributes:
        shift: largest shift in pixels, each direction.
        flip: mirror half of the images.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Augment a batch.

        Args:
            images: ``(N, C, H, W)``, any dtype.
            indices: ``(N,)`` int64 on the CPU, each sample's own index.
            seed: of the run.
            epoch: from 0.
        """
        if not self.shift and not self.flip:
            return images
        n, c, h, w = images.shape
        where = indices.numpy()
        reach = 2 * self.shift + 1
        down = draws(where, seed, _DOWN, epoch) % np.uint64(reach)
        right = draws(where, seed, _RIGHT, epoch) % np.uint64(reach)
        flipped = (uniform(where, seed, _FLIP, epoch) < 0.5) & self.flip
        columns = np.arange(w)
        rows = down[:, None].astype(np.int64) + np.arange(h)
        cols = right[:, None].astype(np.int64) + np.where(flipped[:, None], columns[::-1], columns)
        wide = w + 2 * self.shift
        cells = torch.from_numpy(rows[:, :, None] * wide + cols[:, None, :]).view(n, 1, h * w).to(images.device)
        padded = F.pad(images, [self.shift] * 4).flatten(2)
        return padded.gather(2, cells.expand(n, c, h * w)).view(n, c, h, w)
