"""The images that judge candidates: all of them out of train, none of them of test."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.data import Data
from mcomp.errors import StageError

#: Of the images that stay in memory for statistics, and of those that count.
LARGEST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class JudgingSample:
    """Images and labels.

    Attributes:
        batches: training images, for statistics and steps.
        targets: their labels.
        images: held-out images, the classes mixed, so that any first part of them is fair.
        labels: theirs.
    """

    batches: list[Tensor]
    targets: list[Tensor]
    images: Tensor
    labels: Tensor


def judging_sample(data: Data, *, norm_batches: int, images: int, seed: int) -> JudgingSample:
    """Draw them; fewer where they would fill more than half a gigabyte.

    Raises:
        StageError: MC496, no image is held out.
    """
    if len(data.val) == 0:
        raise StageError(
            "no image is held out of training",
            code="MC496",
            why="candidates have to be judged on images that none of them has learned from",
            hint="raise `val_fraction` of the data",
        )
    most = max(LARGEST_BYTES // (4 * torch.Size(data.in_shape).numel()), 1)
    train = data.train.subset(min(norm_batches * data.batch_size, most, len(data.train)), seed=seed)
    # a batch of one image has no variance
    pairs = [pair for pair in train.batches(data.batch_size) if len(pair[1]) > 1]
    held = data.val.subset(min(images, most), seed=seed)
    found = list(held.batches(256))
    return JudgingSample(
        [inputs.clone() for inputs, _ in itertools.islice(pairs, norm_batches)],
        [labels.clone() for _, labels in itertools.islice(pairs, norm_batches)],
        torch.cat([inputs for inputs, _ in found]),
        torch.cat([labels for _, labels in found]),
    )
