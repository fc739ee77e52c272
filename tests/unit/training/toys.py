"""A tiny data set and network that keep the promises the loop relies on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.training import TrainSettings, fit
from mcomp.training.loop import FitResult


@dataclass
class ToySplit:
    """Images held in memory; order from (seed, epoch), augmentation from (seed, epoch, index)."""

    images: Tensor
    labels: Tensor
    batch_size: int = 8

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int | None = None, drop_last: bool = False) -> int:
        return -(-len(self) // (batch_size or self.batch_size))

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
        size = batch_size or self.batch_size
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for rows in list(order.split(size))[skip:]:
            images = self.images[rows]
            if augment:
                shifts = [(int(row) * 7 + epoch * 3 + (seed or 0)) % 3 - 1 for row in rows]
                images = torch.stack([image.roll(shift, -1) for image, shift in zip(images, shifts, strict=True)])
            yield images.to(device), self.labels[rows].to(device)


class ToyData:
    """Three classes of bright bars in noise."""

    name = "bars"
    class_names = ("left", "middle", "right")
    num_classes = 3
    in_shape = (1, 6, 6)
    batch_size = 8
    preprocessing: dict[str, Any] = {"size": [6, 6], "mean": [0.0], "std": [1.0], "channels": 1}  # noqa: RUF012

    def __init__(self, train: int = 43, val: int = 12, test: int = 12) -> None:
        generator = torch.Generator().manual_seed(5)
        self.train, self.val, self.test = (self._split(size, generator) for size in (train, val, test))

    @staticmethod
    def _split(size: int, generator: torch.Generator) -> ToySplit:
        labels = torch.arange(size) % 3
        images = 0.3 * torch.randn(size, 1, 6, 6, generator=generator)
        for row, label in enumerate(labels):
            images[row, :, :, 2 * int(label) : 2 * int(label) + 2] += 1
        return ToySplit(images, labels)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.train.images[:2],)


def toy_net(classes: int = 3, dropout: float = 0.3) -> nn.Sequential:
    """Convolution, batch norm, dropout, linear."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d((1, 3)),
            nn.Flatten(),
            nn.Linear(18, classes),
        )


class Kept:
    """Snapshots as a store keeps them: through ``torch.save`` and a load that accepts weights only."""

    def __init__(self) -> None:
        self.bytes: bytes | None = None
        self.saved = 0

    def save(self, state: dict[str, Any]) -> None:
        import io

        file = io.BytesIO()
        torch.save(state, file)
        self.bytes = file.getvalue()
        self.saved += 1

    def restore(self) -> dict[str, Any] | None:
        import io

        if self.bytes is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self.bytes), weights_only=True)
        return state


def settings(**chosen: Any) -> TrainSettings:
    """Settings for a short run."""
    return TrainSettings(**{"epochs": 3, "lr": 0.05, **chosen})


def train(model: nn.Module | None = None, data: ToyData | None = None, **arguments: Any) -> FitResult:
    """``fit`` on toys; ``settings`` may be a dict."""
    chosen = arguments.pop("settings", {})
    return fit(model or toy_net(), data or ToyData(), settings(**chosen), **arguments)  # type: ignore[arg-type]


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    """Whether all parameters and buffers are equal bit for bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8)) for a, b in pairs)


def stop_after(steps: int) -> Callable[[], int]:
    """A ``should_stop`` that asks once, after so many steps."""
    count = 0

    def ask() -> int:
        nonlocal count
        count += 1
        return 15 if count == steps else 0

    return ask
