"""LeNet-5 (LeCun et al., 1998) with ReLU, max pooling and batch norm, as compression papers use it."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mcomp.models.builders import records_builder


class LeNet(nn.Module):
    """Two convolutions and three linear layers; the last feature map is averaged to 2 x 2 cells first.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    cells = 2

    def __init__(self, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        c1, c2, f1, f2 = (max(1, math.floor(n * width + 0.5)) for n in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, c1, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(c1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, bias=False)
        self.bn2 = nn.BatchNorm2d(c2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(self.cells)
        self.flatten = nn.Flatten(1)
        self.fc1 = nn.Linear(c2 * self.cells**2, f1)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(f1, f2)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(f2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.flatten(self.pool(x))
        x = self.relu4(self.fc2(self.relu3(self.fc1(x))))
        logits: Tensor = self.fc3(x)
        return logits


@records_builder
def lenet(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> LeNet:
    """LeNet-5: 6 and 16 channels, 120 and 84 units, all multiplied by ``width``.

    Args:
        num_classes: outputs.
        width: multiplies every inner size.
        in_channels: channels of the input.
    """
    return LeNet(num_classes, width, in_channels)
