"""Activations quantised at run time, as ONNX's ``DynamicQuantizeLinear`` does it: nothing to calibrate."""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.errors import UsageError
from mcomp.quantization.config import OFF
from mcomp.quantization.fake_quantize import snap, straight_through
from mcomp.quantization.integers import QParams
from mcomp.quantization.observers import extremes
from mcomp.quantization.observers.extremes import refuse_not_finite
from mcomp.quantization.quantizers.base import Quantizer

_LEVELS = 255


class DynamicQuantizer(Quantizer):
    """Fake-quantise to 256 levels between the extremes of the tensor at hand, 0 among them.

    ``scale = (max(x, 0) - min(x, 0)) / 255``, ``zero_point = round(clamp(-min(x, 0) / scale, 0, 255))``, and the result
    is ``(clamp(round(x / scale) + zero_point, 0, 255) - zero_point) * scale``; halves round to even. A tensor of zeros
    has scale 1. The gradient is that of the identity: nothing is clipped.

    The range is that of the whole tensor, batch included: what a sample becomes depends on its neighbours.

    Args:
        bits: 8, or 32 to pass the tensor through.

    Shape:
        any, to the same shape, type and memory format; computed in float32.

    Raises:
        UsageError: the bits are others.
    """

    scheme = "dynamic"

    def __init__(self, bits: int = 8) -> None:
        if bits not in (8, OFF):
            raise UsageError(
                f"`bits` is {bits!r}",
                code="MC427",
                hint="activations are quantised at run time to 8 bits, or not at all",
            )
        super().__init__(bits, 0, _LEVELS)

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return False

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor."""
        return straight_through(x, self._snap)

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The grid of the tensor ``x``.

        Raises:
            UsageError: ``x`` is missing.
        """
        if x is None:
            raise UsageError("the range comes from each tensor", code="MC427", hint="call `qparams(x)`")
        scale, zero_point = self._measured(x)
        return QParams(float(scale), int(zero_point), self.qmin, self.qmax)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes, zero point included, and their scale ``[1]``."""
        scale, zero_point = self._measured(x)
        return torch.div(x, scale).round_().add_(zero_point).clamp_(self.qmin, self.qmax), scale.reshape(1)

    def extra_repr(self) -> str:
        """Bits and levels."""
        return f"bits={self.bits}, levels=0..{_LEVELS}, range of each tensor"

    def _snap(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return torch.empty_like(x)
        scale, zero_point = self._measured(x)
        return snap(x, scale, self.qmin - zero_point, self.qmax - zero_point)

    def _measured(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = extremes(x.detach(), None)
        if x.device.type == "cpu":
            refuse_not_finite(low, high, self.name)
        low, high = low.float().clamp(max=0), high.float().clamp(min=0)
        scale = (high - low) / _LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, (-low / scale).clamp_(self.qmin, self.qmax).round_()
