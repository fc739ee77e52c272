"""A learned clip, after Choi et al., "PACT" (arXiv:1805.06085)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.fake_quantize import Limits, snap
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.learned_grid import Grid, OnLearnedGrid, grid_gradients
from mcomp.quantization.pieces import at_hand
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer, largest_level


class PACTQuantizer(HeldRangeQuantizer):
    """Fake-quantise an activation to ``levels`` steps of ``[0, alpha]``, or of ``[-alpha, alpha]``; alpha trains.

    ``scale = alpha / qmax``. The gradient of ``x`` is ``g`` below alpha (and from 0 on, or above -alpha), else 0;
    that of alpha is the sum of ``g`` where ``x >= alpha``, less that where ``x <= -alpha`` on a signed grid. Alpha
    starts at what calibration found or at the largest magnitude of the first training batch; weight decay on it, as
    the paper has it, is the optimiser's business.

    Args:
        bits: 2..16; 32 passes the tensor through.
        signed: whether the tensor can be negative; the paper's grid is unsigned.
        levels: the largest level of an unsigned grid, ``2**bits - 1`` when left out.
        nonnegative_input: the input is proven to be never below 0.

    Attributes:
        alpha: 0-d float32 parameter.

    Raises:
        UsageError: bits are not offered.
    """

    scheme = "pact"
    learned_scales: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(
        self,
        bits: int = 8,
        signed: bool = False,
        *,
        levels: int | None = None,
        nonnegative_input: bool = False,
    ) -> None:
        qmax = largest_level(bits, signed, levels)
        super().__init__(bits, -qmax if signed else 0, qmax, nonnegative_input=nonnegative_input)
        self.alpha = nn.Parameter(torch.ones(()))

    def effective_scale(self) -> Tensor:
        """``alpha / qmax``, never below 2**-23."""
        return (self.alpha.detach() / self.qmax).clamp_(min=MIN_SCALE)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        scale = self.effective_scale()
        if not (torch.is_grad_enabled() and (x.requires_grad or self.alpha.requires_grad)):
            return snap(x, scale, self.qmin, self.qmax)
        ends = self._ends(self.alpha.detach().clamp(min=MIN_SCALE * self.qmax))
        grid = Grid(scale, self.qmin, self.qmax, self.qmax - self.qmin, ends)
        made: Tensor = _LearnedClip.apply(x, grid, 1.0, self.alpha)
        return made

    def _ends(self, clip: Tensor) -> Limits:
        alpha = float(clip) if at_hand(clip) else clip
        if isinstance(alpha, float) and not math.isfinite(alpha):
            raise StageError(
                f"the learned clip of `{self.name or 'a quantiser'}` is {alpha}",
                code="MC424",
                why="training diverged",
                hint="lower `lr`",
            )
        below = -alpha if self.signed else -float(torch.finfo(torch.float32).smallest_normal)
        return 0.0 if self.relu else float("-inf") if self._one_sided else below, alpha

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Start from the larger magnitude, or from ``high`` on an unsigned grid."""
        clip = max(-float(low), float(high), 0.0) if self.signed else max(float(high), 0.0)
        with torch.no_grad():
            self.alpha.fill_(max(clip, MIN_SCALE * self.qmax))
        self.mark_ready()


class _LearnedClip(OnLearnedGrid):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        found = grid_gradients(ctx, grad, of_scale=False, of_ends=True)
        return found.x, None, None, (found.bound / (ctx.grid.scale * ctx.grid.high)).float()
