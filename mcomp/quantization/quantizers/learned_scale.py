"""A scale that is a parameter: what the quantisers of learned step size share."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.fake_quantize import Bound, Limits, inside_bounds
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.pieces import at_hand
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer


class LearnedScaleQuantizer(HeldRangeQuantizer):
    """A quantiser with one scale that trains; below 2**-23, where an optimiser may push it, it counts as 2**-23.

    Attributes:
        scale: 0-d float32 parameter.
    """

    scale: nn.Parameter
    learned_scales: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, bits: int, qmin: int, qmax: int, *, nonnegative_input: bool = False) -> None:
        super().__init__(bits, qmin, qmax, nonnegative_input=nonnegative_input)
        self.scale = nn.Parameter(torch.ones(()))

    def effective_scale(self) -> Tensor:
        """The scale that is computed with: never below 2**-23."""
        return self.scale.detach().clamp(min=MIN_SCALE)

    def gain(self, features: int) -> float:
        """``1 / sqrt(N * Qp)`` for N features, by which gradients of the range are multiplied."""
        return 1 / math.sqrt(max(features, 1) * self.qmax)

    def limits(self, scale: Tensor, low: Bound, high: Bound) -> Limits:
        """Exclusive limits of the inputs strictly between the ends of the grid.

        Raises:
            StageError: on the CPU, where looking costs nothing: the scale is no number.
        """
        if not at_hand(scale) or isinstance(low, Tensor) or isinstance(high, Tensor):
            return 0.0 if self.relu else float("-inf") if self._one_sided else scale * low, scale * high
        found = self.inside(scale, low, high, closed=False)
        if found is None:  # a parameter of inference mode has no version to keep limits by
            found = inside_bounds(float(scale), low, high, closed=False)
        if math.isnan(found[1]):
            raise StageError(
                f"the learned scale of `{self.name or 'a quantiser'}` is nan",
                code="MC424",
                why="training diverged",
                hint="lower `lr`, or start from an earlier checkpoint",
            )
        return (0.0, found[1]) if self.relu else found


def features_of(x: Tensor) -> int:
    """Features of one sample of the batch ``x``."""
    return x.numel() // max(x.shape[0], 1) if x.dim() else 1
