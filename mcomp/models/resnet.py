"""ResNet-18 and ResNet-50 (He et al., arXiv:1512.03385), as in PyTorch and as in Caffe."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.conv_bn import conv_bn
from mcomp.models.rounding import round_to_multiple


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a projection where ``project``.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``, rounded up.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, project: bool, caffe: bool = False) -> None:
        super().__init__()
        self.conv1 = conv_bn(in_channels, channels, 3, stride, act=nn.ReLU())
        self.conv2 = conv_bn(channels, channels, 3)
        self.shortcut = conv_bn(in_channels, channels, 1, stride) if project else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's sum, behind its ReLU."""
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))
        return y


class Bottleneck(nn.Module):
    """1 x 1 down to ``channels``, 3 x 3, 1 x 1 up to four times as many, beside a shortcut.

    The stride is the 3 x 3 convolution's; Caffe's files have it at the first 1 x 1.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, 4 * channels, H / stride, W / stride)``, rounded up.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, project: bool, caffe: bool = False) -> None:
        super().__init__()
        out = self.expansion * channels
        self.conv1 = conv_bn(in_channels, channels, 1, stride if caffe else 1, act=nn.ReLU())
        self.conv2 = conv_bn(channels, channels, 3, 1 if caffe else stride, act=nn.ReLU())
        self.conv3 = conv_bn(channels, out, 1)
        self.shortcut = conv_bn(in_channels, out, 1, stride) if project else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's sum, behind its ReLU."""
        y: Tensor = self.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))
        return y


class ResNet(nn.Module):
    """A 7 x 7 stem, four stages of residual blocks, global average pooling, one linear layer.

    Caffe's variant pools without padding, rounding up, and projects in the first block of every stage, the first too.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int,
        width: float,
        in_channels: int,
        caffe: bool,
    ) -> None:
        super().__init__()
        held = round_to_multiple(64 * width, 1)
        self.stem = conv_bn(in_channels, held, 7, 2, act=nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if caffe else nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        for number, depth in enumerate(depths):
            channels = round_to_multiple(64 * 2**number * width, 1)
            blocks: list[nn.Module] = []
            for place in range(depth):
                stride = 2 if number and not place else 1
                project = not place and (caffe or stride > 1 or held != block.expansion * channels)
                blocks.append(block(held, channels, stride, project, caffe))
                held = block.expansion * channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(held, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stages(self.maxpool(self.stem(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


@records_builder
def resnet18(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """ResNet-18.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width, in_channels, caffe=False)


@records_builder
def resnet50(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """ResNet-50 with its strides in the 3 x 3 convolutions (often called V1.5).

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, caffe=False)


@records_builder
def resnet18_caffe(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """ResNet-18 as in Caffe: a projection in the first stage too, a max pooling that rounds up.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width, in_channels, caffe=True)


@records_builder
def resnet50_caffe(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """ResNet-50 as in Caffe and in the paper: strides in the first 1 x 1 convolutions.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, caffe=True)
