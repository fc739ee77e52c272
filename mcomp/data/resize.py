"""Tensors of images to another size and number of channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries turn colour to grey


def resized(images: Tensor, size: int) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C, size, size)``: shorter side to ``size``, bilinear with antialiasing, centre crop."""
    h, w = images.shape[2:]
    if (h, w) == (size, size):
        return images
    target = (size, max(size, round(w * size / h))) if h <= w else (max(size, round(h * size / w)), size)
    out = F.interpolate(images.float(), target, mode="bilinear", antialias=True, align_corners=False)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    out = out[:, :, top : top + size, left : left + size]
    return out.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else out.contiguous()


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Colour to grey where one channel is wanted. Grey stays grey: repeating it is left to normalisation."""
    if images.size(1) == 3 and channels == 1:
        weights = torch.tensor(_LUMA).view(1, 3, 1, 1)
        grey = (images.float() * weights).sum(1, keepdim=True)
        return grey.round().to(torch.uint8) if images.dtype == torch.uint8 else grey
    return images
