"""MobileNet (Howard et al., arXiv:1704.04861) and MobileNetV2 (Sandler et al., arXiv:1801.04381)."""

from __future__ import annotations

from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.conv_bn import conv_bn
from mcomp.models.rounding import round_to_multiple

#: Channels and stride of each depthwise separable convolution of the first version.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))
#: Expansion, channels, blocks and first stride of each stage of the second.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
#: Inner channel counts are multiples of it, whatever the width.
_MULTIPLE = 8


class InvertedResidual(nn.Module):
    """1 x 1 up, 3 x 3 depthwise, 1 x 1 down without an activation; added to its input where the shapes are the same.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers = [conv_bn(in_channels, inner, 1, act=nn.ReLU6())] if expansion > 1 else []
        layers.append(conv_bn(inner, inner, 3, stride, groups=inner, act=nn.ReLU6()))
        layers.append(conv_bn(inner, channels, 1))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """The layers' output, or its sum with the input."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNet(nn.Module):
    """Features, global average pooling, one linear layer.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 4.
    """

    def __init__(self, features: nn.Sequential, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.features(x))))
        return logits


@records_builder
def mobilenet_v1(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> MobileNet:
    """MobileNet: thirteen depthwise separable convolutions behind a stem, with ReLU.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count; each is rounded to a multiple of 8.
        in_channels: channels of the input.
    """
    held = round_to_multiple(32 * width, _MULTIPLE)
    layers = [conv_bn(in_channels, held, 3, 2, act=nn.ReLU())]
    for wanted, stride in _V1:
        channels = round_to_multiple(wanted * width, _MULTIPLE)
        layers.append(conv_bn(held, held, 3, stride, groups=held, act=nn.ReLU()))
        layers.append(conv_bn(held, channels, 1, act=nn.ReLU()))
        held = channels
    return MobileNet(nn.Sequential(*layers), held, num_classes)


@records_builder
def mobilenet_v2(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3) -> MobileNet:
    """MobileNetV2: seventeen inverted residuals with ReLU6, no dropout.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count, the last one only upwards; each is rounded to a multiple of 8.
        in_channels: channels of the input.
    """
    held = round_to_multiple(32 * width, _MULTIPLE)
    layers: list[nn.Module] = [conv_bn(in_channels, held, 3, 2, act=nn.ReLU6())]
    for expansion, wanted, blocks, first in _V2:
        channels = round_to_multiple(wanted * width, _MULTIPLE)
        for place in range(blocks):
            layers.append(InvertedResidual(held, channels, 1 if place else first, expansion))
            held = channels
    last = round_to_multiple(1280 * max(width, 1.0), _MULTIPLE)
    layers.append(conv_bn(held, last, 1, act=nn.ReLU6()))
    return MobileNet(nn.Sequential(*layers), last, num_classes)
