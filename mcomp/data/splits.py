"""A loaded data set: three splits that give normalised batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mcomp.data.augment import Augmentation
from mcomp.data.draws import permutation
from mcomp.data.normalise import Normalisation
from mcomp.data.samples import Samples
from mcomp.data.stratify import choose
from mcomp.errors import visible

_SHUFFLE, _SUBSET = 1, 2  # purposes: which draw is which


@dataclass(frozen=True)
class Split:
    """Some samples of a data set, in a fixed order.

    Attributes:
        samples: where the images are.
        indices: ``(n,)`` int64, this split's positions in ``samples``.
        normalise: pixels to what the model gets.
        augmentation: what ``batches(augment=True)`` does.
        batch_size: where a caller does not say.
    """

    samples: Samples
    indices: Tensor
    normalise: Normalisation
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = 64

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"<Split of {len(self)} images>"

    @property
    def labels(self) -> Tensor:
        """``(n,)`` int64, in this split's order."""
        return self.samples.labels[self.indices]

    def num_batches(self, batch_size: int | None = None, drop_last: bool = False) -> int:
        """How many batches :meth:`batches` gives without ``skip``."""
        size = batch_size or self.batch_size
        return len(self) // size if drop_last else -(-len(self) // size)

    def batches(
        self,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        skip: int = 0,
        device: str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``(N, C, H, W)`` float32, normalised, and labels ``(N,)`` int64.

        Args:
            batch_size: images per batch; the recipe's by default.
            seed: shuffles, differently each epoch; None keeps the order.
            epoch: from 0.
            augment: shift and flip as the data set's options say; needs nothing but seed, epoch and index.
            skip: leave out so many batches at the beginning, without computing them.
            device: where the tensors are wanted; augmentation runs there.
            drop_last: leave out a last, smaller batch.
        """
        size = batch_size or self.batch_size
        order = self.indices
        if seed is not None:
            order = order[torch.from_numpy(permutation(len(order), seed, _SHUFFLE, epoch))]
        parts = list(torch.split(order, size))[skip : self.num_batches(size, drop_last)] if len(order) else []
        for part, images in _fetched(self.samples, parts):
            batch = images.to(device, non_blocking=True)
            if augment:
                batch = self.augmentation(batch, part, seed or 0, epoch)
            yield self.normalise(batch), self.samples.labels[part].to(device, non_blocking=True)

    def subset(self, n: int, seed: int = 0) -> Split:
        """At most ``n`` samples, the classes in proportion, in an order that mixes them."""
        chosen = torch.from_numpy(choose(self.labels.numpy(), min(n, len(self)), seed))
        mixed = chosen[torch.from_numpy(permutation(len(chosen), seed, _SUBSET))]
        return Split(self.samples, self.indices[mixed], self.normalise, self.augmentation, self.batch_size)


@dataclass(frozen=True)
class Data:
    """A data set ready for use.

    Attributes:
        name: as in the recipe.
        class_names: in the order of the labels.
        in_shape: ``(C, H, W)`` of what the model gets.
        batch_size: where a stage does not say.
        preprocessing: ``{"size": [h, w], "mean": […], "std": […], "channels": C, …}``, as written into deployed files.
        train: to learn from.
        val: held out of train; every choice is made on it.
        test: for reported figures only.
    """

    name: str
    class_names: tuple[str, ...]
    in_shape: tuple[int, int, int]
    batch_size: int
    preprocessing: dict[str, Any]
    train: Split
    val: Split
    test: Split

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.in_shape))
        images = f"{len(self.train)} train, {len(self.val)} val and {len(self.test)} test images"
        return f"<Data {visible(self.name)}: {images} of {shape}, {self.num_classes} classes>"

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.class_names)

    @property
    def example_inputs(self) -> tuple[Tensor]:
        """A batch of the first two validation images (of train, where there is only one)."""
        source = self.val if len(self.val) > 1 else self.train
        images, _ = next(source.batches(2))
        return (images,)


def _fetched(samples: Samples, parts: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each part with its images; slow samples are fetched one batch ahead on another thread."""
    if not samples.slow:
        for part in parts:
            yield part, samples.fetch(part)
        return
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(samples.fetch, parts[0]) if parts else None
        for index, part in enumerate(parts):
            assert coming is not None
            images = coming.result()
            coming = ahead.submit(samples.fetch, parts[index + 1]) if index + 1 < len(parts) else None
            yield part, images
