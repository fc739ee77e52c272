"""Darknet-19 (Redmon and Farhadi, arXiv:1612.08242) and Darknet-53 (arXiv:1804.02767), classifiers behind YOLO."""

from __future__ import annotations

from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.conv_bn import conv_bn
from mcomp.models.rounding import round_to_multiple

SLOPE = 0.1  # of the leaky ReLU
#: Channels of each stage: 3 x 3 and 1 x 1 take turns; a max pooling stands before every stage but the first.
_STAGES_19 = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
#: Residual blocks of each stage.
_STAGES_53 = (1, 2, 8, 8, 4)


class Darknet19(nn.Module):
    """Nineteen convolutions, the last of which gives the classes, and global average pooling.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 32.
    """

    def __init__(self, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, stage in enumerate(_STAGES_19):
            if number:
                layers.append(nn.MaxPool2d(2))
            for place, wanted in enumerate(stage):
                channels = round_to_multiple(wanted * width, 1)
                layers.append(conv_bn(in_channels, channels, 1 if place % 2 else 3, act=nn.LeakyReLU(SLOPE)))
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.classes = nn.Conv2d(in_channels, num_classes, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.flatten(self.pool(self.classes(self.features(x))))
        return logits


class DarknetBlock(nn.Module):
    """1 x 1 down to half of the channels, 3 x 3 back up, added to the input without an activation behind the sum.

    Shape:
        ``(N, channels, H, W)`` to the same shape.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels, inner, 1, act=nn.LeakyReLU(SLOPE))
        self.conv2 = conv_bn(inner, channels, 3, act=nn.LeakyReLU(SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        """The block's sum."""
        y: Tensor = x + self.conv2(self.conv1(x))
        return y


class Darknet53(nn.Module):
    """Fifty-two convolutions, each stage begun by one of stride 2, global average pooling, one linear layer.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(self, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        held = round_to_multiple(32 * width, 1)
        layers: list[nn.Module] = [conv_bn(in_channels, held, 3, act=nn.LeakyReLU(SLOPE))]
        for number, blocks in enumerate(_STAGES_53):
            inner, channels = (round_to_multiple(base * 2**number * width, 1) for base in (32, 64))
            layers.append(conv_bn(held, channels, 3, 2, act=nn.LeakyReLU(SLOPE)))
            layers += [DarknetBlock(channels, inner) for _ in range(blocks)]
            held = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(held, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.features(x))))
        return logits


@records_builder
def darknet19(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> Darknet19:
    """Darknet-19.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return Darknet19(num_classes, width, in_channels)


@records_builder
def darknet53(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> Darknet53:
    """Darknet-53.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return Darknet53(num_classes, width, in_channels)
