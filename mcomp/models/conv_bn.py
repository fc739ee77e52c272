"""The brick of most networks: a convolution, its batch norm, and perhaps an activation."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """``conv``, ``bn`` and, where one is given, ``act``; without a stride the spatial size stays.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: height and width, odd.
        stride: of the convolution.
        groups: of the convolution.
        act: a module of its own for this place.
    """
    padding = kernel // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels))
    if act is not None:
        layers["act"] = act
    return nn.Sequential(layers)
