"""How a window moves over an image, and how much of it lies on the border of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, dilation and zero padding of a convolution, each ``(vertical, horizontal)``."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)

    @classmethod
    def of(cls, layer: Any) -> Geometry:
        """Of a one- or two-dimensional convolution, which is read as a row; of a linear layer, a single point."""
        if not isinstance(layer, nn.modules.conv._ConvNd):
            return cls()
        border = layer._reversed_padding_repeated_twice if layer.padding_mode == "zeros" else [0, 0] * 2
        before, after = tuple(reversed(border[::2])), tuple(reversed(border[1::2]))
        return cls(
            _pair(layer.kernel_size, 1),
            _pair(layer.stride, 1),
            _pair(layer.dilation, 1),
            _pair(before[-len(layer.kernel_size) :], 0),
            _pair(after[-len(layer.kernel_size) :], 0),
        )

    def numbers(self) -> list[int]:
        """All ten, as the compiled loops take them."""
        return [*self.kernel, *self.stride, *self.dilation, *self.before, *self.after]

    def least(self) -> Pair:
        """Rows and columns of the smallest image that a window fits on, border included; may be below 1."""
        rows, columns = (
            self.dilation[dim] * (self.kernel[dim] - 1) + 1 - self.before[dim] - self.after[dim] for dim in (0, 1)
        )
        return rows, columns

    def output(self, size: Pair) -> Pair:
        """Rows and columns that it makes of an image."""
        return len(self.inside(size[0], 0)), len(self.inside(size[1], 1))

    def inside(self, size: int, dim: int) -> Tensor:
        """``[outputs, kernel]``: whether each tap of each window lies on the image, which is ``size`` long."""
        reach = self.dilation[dim] * (self.kernel[dim] - 1) + 1
        outputs = (size + self.before[dim] + self.after[dim] - reach) // self.stride[dim] + 1
        first = torch.arange(max(outputs, 0))[:, None] * self.stride[dim] - self.before[dim]
        place = first + torch.arange(self.kernel[dim]) * self.dilation[dim]
        return (place >= 0) & (place < size)


def _pair(numbers: tuple[int, ...], missing: int) -> Pair:
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (missing, numbers[0])
