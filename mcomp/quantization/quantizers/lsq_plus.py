"""A learned step size and a learned offset, after Bhalgat et al., "LSQ+" (arXiv:2004.09576)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.quantization.config import check_bits
from mcomp.quantization.fake_quantize import Bound, snap
from mcomp.quantization.integers import MIN_SCALE, QParams
from mcomp.quantization.learned_grid import Grid, OnLearnedGrid, grid_gradients
from mcomp.quantization.pieces import at_hand
from mcomp.quantization.quantizers.learned_scale import LearnedScaleQuantizer, features_of


class LSQPlusQuantizer(LearnedScaleQuantizer):
    """Fake-quantise an activation to ``(clamp(round(x/scale) + z, qmin, qmax) - z) * scale``, scale and offset learned.

    ``z = round(qmin - offset/scale)``, kept within ``[qmin, qmax]``: the paper's real offset is snapped to the grid, so
    that 0 is exact (padding, ReLU) and integer hardware runs what was trained. Inside the range the gradients are
    ``g`` for ``x``, ``g * (round(x/scale) - x/scale)`` for the scale and 0 for the offset. Outside they are 0 for
    ``x``, 0 (below) or ``g * qmax`` (above) for the scale, and ``g`` for the offset. Those of both parameters are
    multiplied by ``1 / sqrt(N * qmax)``, N the features of one sample.

    Args:
        bits: 2..16; 32 passes the tensor through.

    Attributes:
        scale: 0-d float32 parameter.
        offset: 0-d float32 parameter, the value that ``qmin`` stands for; starts at the smallest value.

    Raises:
        UsageError: bits are not offered.
    """

    scheme = "lsq_plus"

    def __init__(self, bits: int = 8) -> None:
        check_bits(bits, "bits")
        super().__init__(bits, 0, 2**bits - 1)
        self.offset = nn.Parameter(torch.zeros(()))

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return False

    def zero_point(self) -> int:
        """The integer that stands for 0."""
        return int(self._zero(self.effective_scale()))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        scale = self.effective_scale()
        found = self._zero(scale)
        zero: Bound = int(found) if at_hand(found) else found
        low, high = self.qmin - zero, self.qmax - zero
        trains = x.requires_grad or self.scale.requires_grad or self.offset.requires_grad
        if not (torch.is_grad_enabled() and trains):
            return snap(x, scale, low, high)
        grid = Grid(scale, low, high, self.qmax - self.qmin, self.limits(scale, low, high))
        made: Tensor = _LearnedGrid.apply(x, grid, self.gain(features_of(x)), self.scale, self.offset)
        return made

    def _zero(self, scale: Tensor) -> Tensor:
        zero = self.qmin - (self.offset.detach() / scale).round()
        return zero.nan_to_num(self.qmin).clamp(self.qmin, self.qmax)

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Start from a grid over ``[low, high]``, widened to hold 0."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        with torch.no_grad():
            self.scale.fill_(max(high / self.qmax - low / self.qmax, MIN_SCALE))
            self.offset.fill_(low)
        self.mark_ready()

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The integer grid.

        Raises:
            StageError: the range is not known yet.
        """
        if not self.ready:
            raise self.no_range()
        return QParams(float(self.effective_scale()), self.zero_point(), self.qmin, self.qmax)


class _LearnedGrid(OnLearnedGrid):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        found, grid = grid_gradients(ctx, grad, of_scale=True, of_ends=True), ctx.grid
        # an end of the range is `level * scale + offset` with levels counted from 0, not from the zero point
        step = (found.value / grid.scale - grid.low * found.outside) * ctx.gain
        return found.x, None, None, step.float(), (found.outside * ctx.gain).float()
