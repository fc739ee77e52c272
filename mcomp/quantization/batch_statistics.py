"""Mean and variance that a batch norm would normalise a batch by, and its gradient where another tensor is normalised.

Ioffe and Szegedy (arXiv:1502.03167), section 3, has the gradient of a batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.pieces import laid_out_like, rows

#: Values of a channel in one sample, below which a batch norm is several times as fast with the channels last.
_FEW = 8


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
            batch = _fast(batch.detach())
            return cls(batch, *_measured(batch.float()))

    @property
    def count(self) -> int:
        """Values of each channel."""
        return self.batch.numel() // max(len(self.mean), 1)

    def samples(self, dtype: torch.dtype) -> Tensor:
        """Two samples ``[2, channels, ...]`` of this mean and unbiased variance: all that a batch norm tracks."""
        spread = (self.variance * (self.count / (2 * (self.count - 1)))).sqrt_()
        sides = torch.tensor([[-1.0], [1.0]], device=spread.device)
        pair = torch.addcmul(self.mean, sides, spread)
        return pair.to(dtype).view(2, -1, *[1] * (self.batch.dim() - 2))


def normalised(
    product: Tensor, shift: Tensor, seen: BatchStatistics, eps: float, gamma: Tensor | None, beta: Tensor | None
) -> Tensor:
    """``product + shift`` per channel, in place, with the gradients that the batch norm of ``seen.batch`` has.

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
        ctx.mark_dirty(product)
        return product.add_(shift.view(1, -1, *[1] * (product.dim() - 2)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        batch, mean, variance = ctx.saved_tensors
        deviation = (variance + ctx.eps).sqrt()  # in place of gamma, it divides the factor out
        wanted = [True, *ctx.needs_input_grad[1:3]]
        of_batch, *others = torch.ops.aten.native_batch_norm_backward.default(
            laid_out_like(grad, batch), batch, deviation, None, None, mean, 1 / deviation, True, ctx.eps, wanted
        )
        return laid_out_like(of_batch, grad), *others, None, None, None


def _fast(batch: Tensor) -> Tensor:
    """A layout in which a batch norm is fast, where copying is cheap: channels last where images are a few values."""
    few = batch.device.type == "cpu" and batch.dim() == 4 and batch.shape[2] * batch.shape[3] < _FEW
    return batch.contiguous(memory_format=torch.channels_last) if few else batch


def _measured(values: Tensor) -> tuple[Tensor, Tensor]:
    if values.device.type != "cpu" or values.dim() < 3 or not values.is_contiguous():
        mean, variance = torch.ops.aten.batch_norm_update_stats.default(values, None, None, 0.0)
        return mean, variance
    lines = values.flatten(2)  # summed up line by line: that operator takes ten times as long in this layout
    share = values.shape[1] / values.numel()
    mean = lines.sum(2).sum(0).mul_(share)
    squares = [_squares(part, mean) for (part,) in rows(lines)]
    return mean, (squares[0] if len(squares) == 1 else torch.stack(squares).sum(0)).mul_(share)


def _squares(lines: Tensor, mean: Tensor) -> Tensor:
    sums: Tensor = torch.linalg.vector_norm(lines - mean.unsqueeze(1), dim=2).square_().sum(0)
    return sums
