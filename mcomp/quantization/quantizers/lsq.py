"""A learned step size, after Esser et al., "Learned Step Size Quantization" (arXiv:1902.08153)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.across_ranks import joint_sum
from mcomp.quantization.config import check_bits
from mcomp.quantization.fake_quantize import Inside, inside_bounds, snap
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.learned_grid import Grid, grid_gradients, quantised
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer


class LSQuantizer(HeldRangeQuantizer):
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

    scale: nn.Parameter
    learned_scales: ClassVar[tuple[str, ...]] = ("scale",)

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
        check_bits(bits, "bits")
        qmax = 2 ** (bits - 1) - 1 if signed else levels or 2**bits - 1
        qmin = -(qmax if narrow else qmax + 1) if signed else 0
        super().__init__(bits, qmin, qmax, nonnegative_input=nonnegative_input)
        self.of_weight = of_weight
        self.scale = nn.Parameter(torch.ones(()))

    def effective_scale(self) -> Tensor:
        """The scale that is computed with: never below 2**-23."""
        return self.scale.detach().clamp(min=MIN_SCALE)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        scale = self.effective_scale()
        if not (torch.is_grad_enabled() and (x.requires_grad or self.scale.requires_grad)):
            return snap(x, scale, self.qmin, self.qmax)
        inside = limits(self, scale, self.qmin, self.qmax)
        if self.relu:
            inside = 0.0, inside[1]
        grid = Grid(scale, self.qmin, self.qmax, inside, self.spent)
        made: Tensor = _LearnedStep.apply(x, self.scale, grid, self.gradient_scale(x))
        return made

    def gradient_scale(self, x: Tensor) -> float:
        """``1 / sqrt(N * Qp)``."""
        features = x.numel() if self.of_weight or x.dim() == 0 else x.numel() // max(x.shape[0], 1)
        return 1 / math.sqrt(max(features, 1) * self.qmax)

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


def limits(quantizer: HeldRangeQuantizer, scale: Tensor, low: int, high: int) -> Inside:
    """Exclusive limits of the inputs strictly between the ends of the grid.

    Raises:
        StageError: the scale is no number.
    """
    found = quantizer.inside(scale, low, high, closed=False)
    if found is None:  # not on the CPU, or in a compiled graph
        found = inside_bounds(float(scale), low, high, closed=False)
    if math.isnan(found[1]):
        raise StageError(
            f"the learned scale of `{quantizer.name or 'a quantiser'}` is nan",
            code="MC424",
            why="training diverged",
            hint="lower `lr`, or start from an earlier checkpoint",
        )
    return found


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Grid, gain: float) -> Tensor:
        made, kept = quantised(x, grid)
        ctx.save_for_backward(x, kept)
        ctx.grid, ctx.gain = grid, gain
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        found = grid_gradients(grad, x, y, ctx.grid, of_scale=True, of_ends=False)
        return found.x, (found.value / ctx.grid.scale * ctx.gain).to(torch.float32), None, None
