"""DenseNet-40 with a growth of 12 for images of 32 pixels (Huang et al., arXiv:1608.06993)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.rounding import round_to_multiple

_GROWTH, _STEM, _LAYERS, _BLOCKS = 12, 16, 12, 3


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3 x 3 convolution, whose output is put behind the input.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, in_channels + growth, H, W)``.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input and what is new."""
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], 1)


class DenseNet(nn.Module):
    """Three blocks of twelve dense layers, a 1 x 1 convolution and an average pooling between them.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(self, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        held, growth = round_to_multiple(_STEM * width, 1), round_to_multiple(_GROWTH * width, 1)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, held, 3, padding=1, bias=False)]
        for block in range(_BLOCKS):
            if block:
                layers += [nn.BatchNorm2d(held), nn.ReLU(), nn.Conv2d(held, held, 1, bias=False), nn.AvgPool2d(2)]
            for _ in range(_LAYERS):
                layers.append(DenseLayer(held, growth))
                held += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(held), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(held, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.features(x))))
        return logits


@records_builder
def densenet40(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> DenseNet:
    """DenseNet-40 without bottlenecks, growth 12.

    Args:
        num_classes: outputs.
        width: multiplies the growth and the channels of the stem.
        in_channels: channels of the input.
    """
    return DenseNet(num_classes, width, in_channels)
