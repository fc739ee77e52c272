"""Mean and variance that a batch norm would normalise a batch by, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, ``[channels]`` in float32.

    Args:
        x: ``[batch, channels, ...]``.
    """
    mean, variance = _BatchStatistics.apply(x)
    return mean, variance


class _BatchStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.ops.aten.batch_norm_update_stats(x.float(), None, None, 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        across = (1, -1, *[1] * (x.dim() - 2))
        slope = of_variance * (2 * mean.numel() / x.numel())
        offset = of_mean * (mean.numel() / x.numel()) - slope * mean
        return torch.addcmul(offset.view(across), x, slope.view(across)).to(x.dtype)
