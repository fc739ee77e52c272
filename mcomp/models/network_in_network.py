"""Network in Network (Lin et al., arXiv:1312.4400) and its group-convolution variant, with batch norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.channel_shuffle import ChannelShuffle
from mcomp.models.rounding import round_to_multiple


@dataclass(frozen=True)
class ConvPlan:
    """One convolution of a plan: kernel size, channels, groups, what comes before it."""

    kernel: int
    channels: int
    groups: int = 1
    shuffle: int = 1
    pool: nn.Module | None = None


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, ReLU; the spatial size stays. The channel shuffle, if any, comes first."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int = 1, shuffle: int = 1) -> None:
        super().__init__()
        self.shuffle = ChannelShuffle(shuffle) if shuffle > 1 else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in, H, W)`` to ``(N, out, H, W)``."""
        if self.shuffle is not None:
            x = self.shuffle(x)
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class NIN(nn.Module):
    """A stack of convolutions, global average pooling, and nothing else.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(self, plan: Sequence[ConvPlan], in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in plan:
            if step.pool is not None:
                layers.append(step.pool)
            layers.append(ConvBNReLU(in_channels, step.channels, step.kernel, step.groups, step.shuffle))
            in_channels = step.channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.flatten(self.pool(self.features(x)))
        return logits


@records_builder
def nin(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> NIN:
    """Network in Network with the original channel plan 192, 160, 96, 192 x 5, classes.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    plan = [
        ConvPlan(5, 192),
        ConvPlan(1, 160),
        ConvPlan(1, 96),
        ConvPlan(5, 192, pool=nn.MaxPool2d(3, stride=2, padding=1)),
        ConvPlan(1, 192),
        ConvPlan(1, 192),
        ConvPlan(3, 192, pool=nn.AvgPool2d(3, stride=2, padding=1)),
        ConvPlan(1, 192),
        ConvPlan(1, num_classes),
    ]
    return NIN(scaled(plan, width), in_channels)


@records_builder
def nin_gc(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> NIN:
    """Network in Network with group convolutions 1, 2, 2, 16, 4, 4, 32, 8, 1 and channel shuffles between them.

    Args:
        num_classes: outputs.
        width: multiplies 256 x 3, 512 x 3, 1024 x 2; each result is rounded to a multiple that its own
            and its consumer's groups divide.
        in_channels: channels of the input.
    """
    plan = [
        ConvPlan(5, 256),
        ConvPlan(1, 256, groups=2),
        ConvPlan(1, 256, groups=2, shuffle=2),
        ConvPlan(3, 512, groups=16, shuffle=2, pool=nn.MaxPool2d(2)),
        ConvPlan(1, 512, groups=4, shuffle=16),
        ConvPlan(1, 512, groups=4, shuffle=4),
        ConvPlan(3, 1024, groups=32, shuffle=4, pool=nn.MaxPool2d(2)),
        ConvPlan(1, 1024, groups=8, shuffle=32),
        ConvPlan(1, num_classes),
    ]
    return NIN(scaled(plan, width), in_channels)


def scaled(plan: Sequence[ConvPlan], width: float) -> list[ConvPlan]:
    """The plan with every channel count but the last (the classes) multiplied by ``width``."""
    out = [
        ConvPlan(
            step.kernel,
            round_to_multiple(step.channels * width, math.lcm(step.groups, consumer.groups)),
            step.groups,
            step.shuffle,
            step.pool,
        )
        for step, consumer in itertools.pairwise(plan)
    ]
    return [*out, plan[-1]]
