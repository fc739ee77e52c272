"""Pixels to the numbers a network sees, and the statistics for that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcomp.data.samples import Samples

_MEASURED = 4096  # images that give mean and standard deviation to three digits


@dataclass(frozen=True)
class Normalisation:
    """``(pixel - mean) / std`` per channel, pixels in 0..1 (uint8 is divided by 255 first).

    Attributes:
        mean: one number per channel of the tensors the model gets.
        std: the same.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, C or 1, H, W)`` uint8 or float to ``(N, C, H, W)`` float32; grey is repeated."""
        full = 255.0 if images.dtype == torch.uint8 else 1.0
        std = torch.tensor(self.std, dtype=torch.float64)
        mean = torch.tensor(self.mean, dtype=torch.float64)
        scale = (1 / (full * std)).float().to(images.device).view(1, -1, 1, 1)
        shift = (-mean / std).float().to(images.device).view(1, -1, 1, 1)
        if images.size(1) == len(self.mean):
            # `to` always copies here: the arithmetic may then be done in place
            return images.to(torch.float32, copy=True).mul_(scale).add_(shift)
        return images.to(torch.float32) * scale + shift


def measure(samples: Samples, indices: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over at most 4096 evenly spaced images, rounded to six digits.

    Rounding keeps the figures equal on machines that sum in another order.
    """
    step = -(-len(indices) // _MEASURED)
    count, total, square = 0, torch.zeros(0), torch.zeros(0)
    for part in torch.split(indices[::step], 256):
        images = samples.fetch(part)
        pixels = images.double() / (255.0 if images.dtype == torch.uint8 else 1.0)
        sums, squares = pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))
        total, square = (total + sums, square + squares) if count else (sums, squares)
        count += pixels.numel() // pixels.size(1)
    mean = total / count
    std = (square / count - mean**2).clamp(min=0).sqrt()
    return [round(m, 6) for m in mean.tolist()], [round(max(s, 1e-3), 6) for s in std.tolist()]
