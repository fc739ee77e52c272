"""DoReFa quantisers, after Zhou et al., "DoReFa-Net" (arXiv:1606.06160), and the variant that integer engines run.

``int_exact`` (default) keeps the function: a linear symmetric grid with a zero for weights, a
calibrated clip for activations. ``paper`` and ``micronet`` reproduce the published and the older
public formulas; they differ in the activation only (the latter multiplies by 0.1 first).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.config import OFF, Variant, check_bits, check_variant
from mcomp.quantization.integers import MIN_SCALE, along_first
from mcomp.quantization.quantizers.activation import ActivationQuantizer
from mcomp.quantization.quantizers.weight import WeightQuantizer

MICRONET_GAIN = 0.1


class DoReFaWeight(WeightQuantizer):
    """Fake-quantise a weight to ``bits`` bits.

    * ``int_exact``: ``q = round(n * W / max|W|)``, ``n = 2**(bits-1) - 1``; the result is ``q * max|W| / n`` and the
      gradient passes straight through (nothing is ever clipped).
    * ``paper``, ``micronet``: ``u = tanh(W)``, ``t = u / (2 max|u|) + 1/2``, ``m = 2**bits - 1``; the result is
      ``2 round(m t) / m - 1``, with the gradient of the scaling by ``max|u|`` included.

    A weight of zeros stays zeros.

    Args:
        bits: 2..16, or 32 for off.
        variant: which formula.
        per_channel: one ``max|W|`` per output channel (axis 0) instead of one per layer; ``int_exact`` only.
        tanh: quantise ``tanh(W)`` in place of ``W``; ``int_exact`` only, the others always do.

    Shape:
        ``(out_channels, ...)`` to the same shape; computed in float32.

    Raises:
        UsageError: bits or variant are not offered.
    """

    scheme = "dorefa"

    def __init__(
        self, bits: int = 8, variant: Variant = "int_exact", *, per_channel: bool = False, tanh: bool = False
    ) -> None:
        super().__init__(bits)
        _check(bits, variant)
        self.variant = variant
        self.per_channel = per_channel
        self.tanh = tanh

    @property
    def integer_bits(self) -> int:
        """Signed bits of the integers; the paper's odd multiples need one more than ``bits``."""
        return self.bits if self.variant == "int_exact" else self.bits + 1

    def forward(self, weight: Tensor) -> Tensor:
        """The quantised weight, float32."""
        if self.bits == OFF:
            return weight
        weight = weight.float()
        quantised: Tensor
        if self.variant != "int_exact":
            quantised = _PaperWeight.apply(weight, self.bits)
        elif self.tanh:
            quantised = _Linear.apply(weight.tanh(), self.bits, self.per_channel)
        else:
            quantised = _Linear.apply(weight, self.bits, self.per_channel)
        return quantised

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes and their scale."""
        if self.variant != "int_exact":
            return _paper_codes(weight.tanh(), self.bits)
        return _linear_codes(weight.tanh() if self.tanh else weight, self.bits, self.per_channel)

    def why(self) -> str:
        """What the integers are, for the report."""
        if self.variant == "int_exact":
            return super().why()
        top = 2**self.bits - 1
        fits = "fits INT8" if top <= 127 else "does not fit INT8"
        return f"odd multiples of 1/{top}, no zero: {self.integer_bits} signed bits, {fits}"

    def extra_repr(self) -> str:
        """Bits and variant."""
        return f"bits={self.bits}, variant={self.variant}, per_channel={self.per_channel}"


class DoReFaActivation(ActivationQuantizer):
    """Fake-quantise an activation to ``bits`` bits.

    * ``int_exact``: a calibrated clip; 0..``levels`` where the input is never negative, symmetric otherwise.
    * ``paper``: ``round((2**bits-1) clamp(x, 0, 1)) / (2**bits-1)``; gradient 1 on the open interval (0, 1).
    * ``micronet``: the paper's formula of ``0.1 x``; the factor is never undone.

    Args:
        bits: 2..16, or 32 for off.
        variant: which formula.
        signed: whether the input can be negative (``int_exact`` only).
        levels: largest level of the unsigned grid (``int_exact`` only).
        nonnegative_input: the input is proven to be never below 0.

    Raises:
        UsageError: bits or variant are not offered.
    """

    def __init__(
        self,
        bits: int = 8,
        variant: Variant = "int_exact",
        *,
        signed: bool = False,
        levels: int | None = None,
        nonnegative_input: bool = False,
    ) -> None:
        _check(bits, variant)
        exact = variant == "int_exact"
        super().__init__(bits, signed and exact, levels if exact else None, nonnegative_input=nonnegative_input)
        self.variant = variant
        if not exact and bits != OFF:
            self.set_clip(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, in the type of ``x``."""
        if self.variant == "int_exact" or self.bits == OFF:
            return super().forward(x)
        gain = MICRONET_GAIN if self.variant == "micronet" else 1.0
        quantised: Tensor = _PaperActivation.apply(x, self.scale, self.qmax, gain)
        return quantised


def _check(bits: int, variant: str) -> None:
    check_bits(bits, "bits")
    check_variant(variant)


def _linear_codes(weight: Tensor, bits: int, per_channel: bool) -> tuple[Tensor, Tensor]:
    top = 2 ** (bits - 1) - 1
    if per_channel:
        largest = weight.reshape(weight.shape[0], -1).abs().amax(1)
    else:
        low, high = torch.aminmax(weight)
        largest = torch.maximum(-low, high).reshape(1)
    largest = torch.where(largest > 0, largest, MIN_SCALE * top)  # zeros stay zeros, not 0/0
    # W/max first: constants and halves of the range then meet their level exactly
    codes = torch.div(weight, along_first(largest, weight.dim())).mul_(top).round_()
    return codes, largest / top


def _paper_codes(warped: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    top = 2**bits - 1
    scale = warped.new_full((1,), 1.0 / top)
    largest = warped.abs().amax()
    unit = warped / torch.where(largest > 0, 2 * largest, 1.0) + 0.5
    codes = unit.mul_(top).round_().mul_(2).sub_(top)
    return torch.where(largest > 0, codes, 0.0), scale


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, per_channel: bool) -> Tensor:
        codes, scale = _linear_codes(weight, bits, per_channel)
        return codes.mul_(along_first(scale, codes.dim()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None, None


class _PaperWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        warped = weight.tanh()
        codes, scale = _paper_codes(warped, bits)
        ctx.save_for_backward(warped)
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (warped,) = ctx.saved_tensors
        flat = warped.flatten()
        peak = flat.abs().argmax()
        largest = flat[peak].abs()
        inverse = torch.where(largest > 0, 1 / largest, 0.0)  # a layer of zeros gets no gradient
        pull = (grad * inverse).flatten()
        pull[peak] -= (pull * flat).sum() * inverse * flat[peak].sign()
        return pull.view_as(warped) * (1 - warped.square()), None


class _PaperActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, top: int, gain: float) -> Tensor:
        unit = x.float() * gain
        ctx.save_for_backward((unit > 0) & (unit < 1))
        ctx.gain = gain
        return unit.clamp_(0, 1).mul_(top).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return (grad * ctx.gain).mul_(inside.view(torch.uint8)), None, None, None
