"""Mean and variance that a batch norm would normalise a batch by, and its gradient where another tensor is normalised.

Ioffe and Szegedy (arXiv:1502.03167), section 3, has the gradient of a batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.pieces import rows


@dataclass(frozen=True)
class BatchStatistics:
    """Of the channels of ``batch``, ``[samples, channels, ...]``; both float32 ``[channels]``.

    Attributes:
        batch: what they are the statistics of.
        mean: of each channel.
        variance: biased.
    """

    batch: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, batch: Tensor) -> BatchStatistics:
        """Those of a batch; no gradient is attached."""
        with torch.no_grad():
            return cls(batch, *_measured(batch.detach().float()))

    @property
    def count(self) -> int:
        """Values of each channel."""
        return self.batch.numel() // max(len(self.mean), 1)

    def samples(self, dtype: torch.dtype) -> Tensor:
        """Two samples ``[2, channels, ...]`` of this mean and unbiased variance: all that a batch norm tracks."""
        spread = (self.variance * (self.count / (2 * (self.count - 1)))).sqrt_()
        pair = torch.stack([self.mean - spread, self.mean + spread])
        return pair.to(dtype).view(2, -1, *[1] * (self.batch.dim() - 2))


def normalised(
    product: Tensor, shift: Tensor, seen: BatchStatistics, eps: float, gamma: Tensor | None, beta: Tensor | None
) -> Tensor:
    """``product + shift`` per channel, with the gradients that the batch norm of ``seen.batch`` has.

    Args:
        product: stands for ``seen.batch * f``, ``f`` the factor ``gamma / sqrt(seen.variance + eps)``. It gets the
            gradient of ``seen.batch``, divided by ``f``, which takes no division.
        shift: float32 ``[channels]``; gets no gradient.
        seen: statistics of the tensor that would be normalised.
        eps: what is added to the variance.
        gamma: of the batch norm, or None for 1.
        beta: of the batch norm, or None for 0.
    """
    made: Tensor = _Normalised.apply(product, gamma, beta, shift, seen, eps)
    return made


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        product: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        shift: Tensor,
        seen: BatchStatistics,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(seen.batch, seen.mean, seen.variance)
        ctx.eps = eps
        return torch.add(product, shift.view(1, -1, *[1] * (product.dim() - 2))).to(product.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        batch, mean, variance = ctx.saved_tensors
        deviation = (variance + ctx.eps).sqrt()  # in place of gamma, it divides the factor out
        wanted = [True, *ctx.needs_input_grad[1:3]]
        found = torch.ops.aten.native_batch_norm_backward.default(
            grad, batch, deviation, None, None, mean, 1 / deviation, True, ctx.eps, wanted
        )
        return *found, None, None, None


def _measured(values: Tensor) -> tuple[Tensor, Tensor]:
    if values.device.type != "cpu" or values.dim() < 3 or not values.is_contiguous():
        mean, variance = torch.ops.aten.batch_norm_update_stats.default(values, None, None, 0.0)
        return mean, variance
    lines = values.flatten(2)  # summed up line by line: that operator takes ten times as long in this layout
    share = values.shape[1] / values.numel()
    mean = lines.sum(2).sum(0).mul_(share)
    total = torch.zeros_like(mean)
    for (part,) in rows(lines):
        total += torch.linalg.vector_norm(part - mean.unsqueeze(1), dim=2).square_().sum(0)
    return mean, total.mul_(share)
