"""A learned step size, after Esser et al., "Learned Step Size Quantization" (arXiv:1902.08153)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.across_ranks import joint_sum
from mcomp.quantization.fake_quantize import snap
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.learned_grid import Grid, OnLearnedGrid, grid_gradients
from mcomp.quantization.quantizers.held_range import largest_level
from mcomp.quantization.quantizers.learned_scale import LearnedScaleQuantizer, features_of


class LSQuantizer(LearnedScaleQuantizer):
    """Fake-quantise to ``scale * round(clamp(x / scale, -Qn, Qp))`` with a scale that trains.

    ``Qn = 2**(bits-1)``, ``Qp = 2**(bits-1) - 1`` signed, ``0`` and ``2**bits - 1`` unsigned. Where
    ``-Qn < x/scale < Qp`` the gradients are ``g`` for ``x`` and ``g * (round(x/scale) - x/scale)`` for the scale;
    outside they are 0 and ``-g * Qn`` or ``g * Qp``. The scale's is multiplied by ``1 / sqrt(N * Qp)``, N the
    weights of the layer or the features of one sample.

    The scale starts at ``2 * mean|x| / sqrt(Qp)`` of the first training batch, unless calibration (or
    :meth:`initialise`, for a trained weight) set it to the least squared error. Below 2**-23, where an optimiser may
    push it, it counts as 2**-23.

    Args:
        bits: 2..16; 32 passes the tensor through.
        signed: whether the tensor can be negative.
        of_weight: the tensor is a weight, not a batch of activations.
        levels: the largest level of an unsigned grid, ``2**bits - 1`` when left out.
        narrow: ``Qn = Qp``, so that integers still fit their type when a batch norm's negative factor flips their sign.
        nonnegative_input: the input is proven to be never below 0.

    Attributes:
        scale: 0-d float32 parameter.

    Raises:
        UsageError: bits are not offered.
    """

    scheme = "lsq"

    def __init__(
        self,
        bits: int = 8,
        signed: bool = True,
        *,
        of_weight: bool = False,
        levels: int | None = None,
        narrow: bool = False,
        nonnegative_input: bool = False,
    ) -> None:
        qmax = largest_level(bits, signed, levels)
        qmin = -(qmax if narrow else qmax + 1) if signed else 0
        super().__init__(bits, qmin, qmax, nonnegative_input=nonnegative_input)
        self.of_weight = of_weight

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        scale = self.effective_scale()
        if not (torch.is_grad_enabled() and (x.requires_grad or self.scale.requires_grad)):
            return snap(x, scale, self.qmin, self.qmax)
        inside = self.limits(scale, self.qmin, self.qmax)
        grid = Grid(scale, self.qmin, self.qmax, self.qmax - self.qmin, inside, self.spent)
        gain = self.gain(x.numel() if self.of_weight else features_of(x))
        made: Tensor = _LearnedStep.apply(x, grid, gain, self.scale)
        return made

    def first_batch(self, x: Tensor) -> None:
        """Start at ``2 * mean|x| / sqrt(Qp)``, the mean of every rank's batch."""
        self.batch_extremes(x)
        sizes = x.detach().float().abs()
        total, count = joint_sum(
            torch.stack([sizes.mean().double() * sizes.numel(), sizes.new_tensor(sizes.numel(), dtype=torch.float64)])
        ).tolist()
        self._start(2 * total / count / math.sqrt(self.qmax))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Start from a scale that represents ``[low, high]`` (``[0, high]`` unsigned)."""
        clip = max(-float(low), float(high), 0.0) if self.signed else max(float(high), 0.0)
        self._start(clip / self.qmax)

    def _start(self, scale: float) -> None:
        with torch.no_grad():
            self.scale.fill_(max(scale, MIN_SCALE))
        self.mark_ready()


class _LearnedStep(OnLearnedGrid):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        found = grid_gradients(ctx, grad, of_scale=True, of_ends=False)
        return found.x, None, None, (found.value / ctx.grid.scale * ctx.gain).to(torch.float32)
