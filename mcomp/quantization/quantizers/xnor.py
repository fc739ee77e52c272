"""The input scale ``K`` of Rastegari et al., "XNOR-Net" (arXiv:1603.05279)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class XNORInputScale(nn.Module):
    """``K``, the mean of ``|x|`` over the channels, averaged over each window of a kernel.

    A convolution of binary inputs is multiplied by ``K``, which has the size of its output, and then gets its bias.
    With groups each has a ``K`` of its own channels. Of a linear layer it is the mean of ``|x|`` over the features.

    Args:
        kernel_size: of the convolution, one number per dimension; empty for a linear layer.
        stride: likewise, or one for all.
        padding: likewise, or ``same`` or ``valid``; the padding counts as zeros.
        dilation: likewise.
        groups: of the convolution.

    Shape:
        ``(N, C, H, W)`` to ``(N, groups, H', W')``, with one or three dimensions of space alike; ``(..., features)`` to
        ``(..., 1)``.
    """

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = tuple(kernel_size)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    @classmethod
    def of(cls, layer: nn.Module) -> XNORInputScale:
        """The one that belongs to a convolution or a linear layer."""
        if not isinstance(layer, nn.modules.conv._ConvNd):
            return cls(())
        return cls(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """``K`` of the tensor before it is made binary."""
        size = x.abs()
        dims = len(self.kernel_size)
        if not dims:
            return size.mean(-1, keepdim=True)
        channels = (*size.shape[: -dims - 1], self.groups, -1, *size.shape[-dims:])
        mean = size.reshape(channels).mean(-dims - 1)
        padding = self.padding
        if padding == "same":  # spelled out: ONNX Runtime knows no dilation beside automatic padding
            mean, padding = F.pad(mean, self._border()), 0
        window = torch.full((self.groups, 1, *self.kernel_size), 1.0, dtype=x.dtype, device=x.device)
        window = window / window[0].numel()
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        scale: Tensor = convolve(mean, window, None, self.stride, padding, self.dilation, self.groups)
        return scale

    def _border(self) -> list[int]:
        """What ``same`` adds, last dimension first: the odd one at the end, as torch does."""
        dilation = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,) * len(self.kernel_size)
        added = [step * (size - 1) for step, size in zip(dilation, self.kernel_size, strict=True)]
        return [side for total in reversed(added) for side in (total // 2, total - total // 2)]


def scale_output(output: Tensor, scale: Tensor, bias: Tensor | None, dims: int) -> Tensor:
    """The output of a layer without its bias, ``(N, C, ...)`` or ``(..., C)``, times ``K``, plus the bias.

    Args:
        output: of ``dims`` dimensions of space; 0 for a linear layer.
        scale: of :class:`XNORInputScale`.
        bias: ``[C]`` or None.
        dims: of space.
    """
    groups = scale.shape[-dims - 1]
    if dims and groups > 1:
        scale = scale.repeat_interleave(output.shape[-dims - 1] // groups, -dims - 1)
    scaled = output * scale
    return scaled if bias is None else scaled + bias.view(-1, *[1] * dims)
