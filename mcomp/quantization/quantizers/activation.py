"""The activation quantiser of a symmetric grid: one per tensor, shared by everything that reads the tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.quantization.fake_quantize import fake_quantize, relu_fake_quantize
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer, largest_level


class ActivationQuantizer(HeldRangeQuantizer):
    """Fake-quantise a tensor: ``clamp(round(x / scale), qmin, qmax) * scale``, in float32, halves to even.

    The gradient passes inside the clip range, its ends included, and is 0 outside. ``scale`` comes
    from calibration or, where nobody calibrated, from the first training batch; it is saved with the
    model, and so is whether it was ever set.

    Args:
        bits: 2..16; 32 passes the tensor through.
        signed: whether the tensor can be negative: levels -n..n, otherwise 0..qmax.
        levels: the largest level of an unsigned grid, ``2**bits - 1`` when left out (127 for TensorRT at 8 bits).
        nonnegative_input: the graph proves that the input is never below 0, which saves half the clip test.

    Attributes:
        scale: 0-d float32 buffer.
        initialised: 0-d bool buffer.
        name: the module's name in its model, for messages.
    """

    def __init__(self, bits: int, signed: bool, levels: int | None = None, *, nonnegative_input: bool = False) -> None:
        qmax = largest_level(bits, signed, levels)
        super().__init__(bits, -qmax if signed else 0, qmax, nonnegative_input=nonnegative_input)
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Fix the range to the larger magnitude on both sides, or to ``[0, high]`` where nothing is negative."""
        clip = max(-float(low), float(high), 0.0) if self.signed else max(float(high), 0.0)
        with torch.no_grad():
            self.scale.fill_(max(clip / self.qmax, MIN_SCALE))
        self.mark_ready()

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        if self.relu:
            return relu_fake_quantize(x, self.scale, self.qmax)
        return fake_quantize(x, self.scale, self.qmin, self.qmax, self.inside(self.scale, self.qmin, self.qmax))
