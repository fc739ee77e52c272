"""VGG-16 with batch norm for images of 32 pixels, as compression papers prune it (Li et al., arXiv:1608.08710)."""

from __future__ import annotations

from torch import Tensor, nn

from mcomp.models.builders import records_builder
from mcomp.models.conv_bn import conv_bn
from mcomp.models.rounding import round_to_multiple

#: Channels of each stage's 3 x 3 convolutions (Simonyan and Zisserman, arXiv:1409.1556, D); a max pooling ends each.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_HIDDEN = 512


class VGG(nn.Module):
    """Thirteen convolutions, five max poolings, and two linear layers in place of the original's three wide ones.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, num_classes)``, for any H and W of at least 32.
    """

    def __init__(self, num_classes: int, width: float, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in _STAGES:
            for wanted in stage:
                channels = round_to_multiple(wanted * width, 1)
                layers.append(conv_bn(in_channels, channels, 3, act=nn.ReLU()))
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        hidden = round_to_multiple(_HIDDEN * width, 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.bn = nn.BatchNorm1d(hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self.flatten(self.pool(self.features(x)))
        logits: Tensor = self.fc2(self.relu(self.bn(self.fc1(x))))
        return logits


@records_builder
def vgg16_bn(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> VGG:
    """VGG-16 with batch norm for images of 32 pixels.

    Args:
        num_classes: outputs.
        width: multiplies every inner channel count.
        in_channels: channels of the input.
    """
    return VGG(num_classes, width, in_channels)
