"""DoReFa quantisers, after Zhou et al., "DoReFa-Net" (arXiv:1606.06160), and the variant that integer engines run.

``int_exact`` (default) keeps the function: a linear symmetric grid with a zero for weights, a
calibrated clip for activations. ``paper`` and ``micronet`` reproduce the published and the older
public formulas; they differ in the activation only (the latter multiplies by 0.1 first).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.quantization.config import OFF, Variant, check_bits, check_variant
from mcomp.quantization.fake_quantize import pass_inside, straight_through
from mcomp.quantization.integers import MIN_SCALE, along_first
from mcomp.quantization.observers import extremes
from mcomp.quantization.observers.extremes import refuse_not_finite
from mcomp.quantization.pieces import at_hand, elementwise, rows
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
        _check(bits, variant)
        super().__init__(bits)
        self.variant = variant
        self.per_channel = per_channel
        self.tanh = tanh

    @property
    def freezable(self) -> bool:
        """Whether there is a range to hold: the paper's levels are constants, whatever the largest weight."""
        return self.variant == "int_exact"

    def warped(self, x: Tensor) -> Tensor:
        """What of a weight meets the grid."""
        return x.float().tanh() if self.tanh else x

    @property
    def integer_bits(self) -> int:
        """Signed bits of the integers; the paper's odd multiples need one more than ``bits``."""
        return self.bits if self.variant == "int_exact" else self.bits + 1

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised weight, in the type of ``x``."""
        if self.variant != "int_exact":
            quantised: Tensor = _PaperWeight.apply(x, self.bits)
            return quantised
        warped = _tanh(x)[0] if self.tanh else x
        make = _linear_per_channel if self.per_channel else _linear
        return straight_through(warped, lambda weight: make(weight, self.qmax)).to(x.dtype)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes and their scale."""
        if self.variant != "int_exact":
            return _paper_codes(x, self.bits)
        warped = _tanh(x)[0] if self.tanh else x
        largest = _largest(warped, self.qmax, self.per_channel)
        codes = torch.empty_like(warped)
        return _round_to(warped, along_first(largest, x.dim()), self.qmax, codes), largest / self.qmax

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

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, in the type of ``x``."""
        if self.variant == "int_exact":
            return super().fake_quantize(x)
        gain = MICRONET_GAIN if self.variant == "micronet" else 1.0
        quantised: Tensor = _PaperActivation.apply(x, self.scale, self.qmax, gain)
        return quantised

    def warp(self) -> nn.Module | None:
        """The factor of ``micronet``."""
        return _ExportedGain() if self.variant == "micronet" else super().warp()

    def take_relu(self) -> bool:
        """Apply the ReLU in front of this quantiser here, unless a factor stands between them."""
        return self.variant != "micronet" and super().take_relu()


class _ExportedGain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """``0.1 x``."""
        return x * MICRONET_GAIN


def _check(bits: int, variant: str) -> None:
    check_bits(bits, "bits")
    check_variant(variant)


def _largest(weight: Tensor, top: int, per_channel: bool) -> Tensor:
    """``max|W|``, ``[1]`` or ``[out_channels]``; for zeros a number that keeps them zeros, not 0/0.

    Raises:
        StageError: on the CPU, where looking costs nothing: the weight holds inf or nan. Elsewhere the result is nan.
    """
    low, high = extremes(weight, 0 if per_channel else None)
    if at_hand(weight):
        refuse_not_finite(low, high, "a weight")
    largest = torch.maximum(-low, high).reshape(-1)
    return torch.where(largest == 0, MIN_SCALE * top, largest)


def _tanh(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``tanh(W)`` in float32 and its largest magnitude, 0-d.

    Raises:
        StageError: on the CPU, where looking costs nothing: the weight holds inf, which would pass for a large number,
            or nan.
    """
    warped = weight.to(torch.float32).tanh()
    low, high = extremes(warped)
    largest = torch.maximum(-low, high)
    if at_hand(weight) and not bool(largest < 1):  # no weight of a sound network is that large
        refuse_not_finite(*extremes(weight), "a weight")
    return warped, largest


def _round_to(weight: Tensor, largest: Tensor, top: int, out: Tensor) -> Tensor:
    # W/max first: constants and halves of the range then meet their level exactly
    return torch.div(weight, largest, out=out).mul_(top).round_()


def _linear(weight: Tensor, top: int) -> Tensor:
    largest = _largest(weight, top, False).reshape(())
    scale = largest / top
    return elementwise(weight, lambda source, result: _round_to(source, largest, top, result).mul_(scale))


def _linear_per_channel(weight: Tensor, top: int) -> Tensor:
    """As :func:`_linear`, a few output channels at a time, while they are in the cache."""
    weight = weight.float()
    result = torch.empty_like(weight)
    for source, target in rows(weight, result):
        largest = along_first(_largest(source, top, True), weight.dim())
        _round_to(source, largest, top, target).mul_(largest / top)
    return result


def _paper_codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    top = 2**bits - 1
    warped, largest = _tanh(weight)
    scale = warped.new_full((1,), 1.0 / top)
    if not bool(largest):
        return torch.zeros_like(warped), scale
    return _paper_levels(warped, largest, top, torch.empty_like(warped)), scale


def _paper_levels(warped: Tensor, largest: Tensor, top: int, out: Tensor) -> Tensor:
    """The odd multiples ``2 round(top * (u / (2 max|u|) + 1/2)) - top``."""
    return torch.div(warped, 2 * largest, out=out).add_(0.5).mul_(top).round_().mul_(2).sub_(top)


class _PaperWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        warped, largest = _tanh(weight)
        ctx.save_for_backward(warped)
        top = 2**bits - 1
        scale = (largest > 0) / top  # a layer of zeros stays one

        def work(source: Tensor, result: Tensor) -> None:
            _paper_levels(source, _divisor(largest), top, result).mul_(scale)

        return elementwise(warped, work).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (warped,) = ctx.saved_tensors
        low, high = extremes(warped)
        negative = -low > high
        largest = _divisor(torch.maximum(-low, high))  # a layer of zeros gets no gradient
        passed = grad / largest
        pull = (passed * warped).sum() / largest  # through max|u|, which one weight is
        slope = torch.addcmul(torch.ones((), device=warped.device), warped, warped, value=-1)
        passed.mul_(slope)
        peak = torch.where(negative, warped.argmin(), warped.argmax())
        place = torch.unravel_index(peak.reshape(1), warped.shape)
        passed[place] -= torch.where(negative, -pull, pull) * slope[place]
        return passed, None


def _divisor(largest: Tensor) -> Tensor:
    return torch.where(largest == 0, float("inf"), largest)


class _PaperActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, top: int, gain: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gain = gain

        def work(source: Tensor, result: Tensor) -> None:
            torch.mul(source, gain, out=result).clamp_(0, 1).mul_(top).round_().mul_(scale)

        return elementwise(x, work)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        passed = pass_inside(grad, x, (0.0, 1 / ctx.gain))
        return (passed if ctx.gain == 1 else passed.mul_(ctx.gain)), None, None, None
