"""ResNet-20 and ResNet-56 for images of 32 pixels (He et al., arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.models.builders import records_builder
from mcomp.models.conv_bn import conv_bn
from mcomp.models.rounding import round_to_multiple


class PaddedShortcut(nn.Module):
    """The paper's shortcut without parameters (its option A): every other pixel, and zeros for the new channels.

    Shape:
        ``(N, C, H, W)`` to ``(N, C + added, H / 2, W / 2)``, rounded up.
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added
        self.subsample = nn.MaxPool2d(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Subsample, then pad."""
        return F.pad(self.subsample(x), (0, 0, 0, 0, 0, self.added))


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(in_channels, channels, 3, stride, act=nn.ReLU())
        self.conv2 = conv_bn(channels, channels, 3)
        self.shortcut = PaddedShortcut(channels - in_channels) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's sum, behind its ReLU."""
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))
        return y


class CifarResNet(nn.Module):
    """A 3 x 3 stem, three stages of 16, 32 and 64 channels, global average pooling, one linear layer.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(self, depth: int, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        held = round_to_multiple(16 * width, 1)
        self.stem = conv_bn(in_channels, held, 3, act=nn.ReLU())
        blocks: list[nn.Module] = []
        for number in range(3):
            channels = round_to_multiple(16 * 2**number * width, 1)
            for place in range((depth - 2) // 6):
                blocks.append(CifarBlock(held, channels, 2 if number and not place else 1))
                held = channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(held, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.blocks(self.stem(x)))))
        return logits


@records_builder
def resnet20(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: three blocks in each stage.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return CifarResNet(20, num_classes, width, in_channels)


@records_builder
def resnet56(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: nine blocks in each stage.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return CifarResNet(56, num_classes, width, in_channels)
