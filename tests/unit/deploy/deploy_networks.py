"""Small quantised networks with everything a lowering meets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.models.channel_shuffle import ChannelShuffle
from mcomp.quantization import calibrate, quantize


class Residual(nn.Module):
    """A convolution, a residual block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.second(self.first(x)))
        return self.head(x.mean((2, 3)))


def chain() -> nn.Module:
    """Convolutions with pools, a shuffle, groups, ReLU6 and a linear layer between them."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, groups=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        ChannelShuffle(4),
        nn.Conv2d(32, 32, 1, groups=4),
        nn.ReLU6(),
        nn.Flatten(1),
        nn.Linear(32 * 16, 10),
    )


def images(count: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def quantised(model: nn.Module | None = None, **options: Any) -> nn.Module:
    """A seeded, warmed-up, quantised and calibrated network in eval mode."""
    torch.manual_seed(0)
    model = chain() if model is None else model
    model.train()(images())
    made = quantize(model.eval(), (images(2),), **{"first_layer_float": False, **options})
    calibrate(made, [images()], "minmax")
    return made.eval()
