"""Dynamic fixed point, after Gysel et al., "Ristretto" (arXiv:1604.03168): every scale is a power of two."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.across_ranks import joint_sum
from mcomp.quantization.config import check_bits
from mcomp.quantization.fake_quantize import fake_quantize, snap, straight_through
from mcomp.quantization.integers import QParams
from mcomp.quantization.observers import HistogramObserver, Observer, check_observer, finite_extremes
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer

Overflow = Literal["forbid", "saturate"]

#: The scale 2**-23 is the smallest that engines take.
_MOST_FRACTION_BITS = 23
_SAMPLE = 1 << 16


class RistrettoQuantizer(HeldRangeQuantizer):
    """Fake-quantise to ``mantissa * 2**-fl``, the mantissa a signed integer of ``bits`` bits.

    Args:
        bits: 2..16; 32 passes the tensor through.
        overflow: ``forbid`` covers the largest magnitude: ``fl = bits - (ceil(log2 max|x|) + 1)``; the grid ends one
            step below the next power of two, so that a value in the last half step, the power itself among them,
            becomes that end (1.0 at 8 bits: 127/128). ``saturate`` takes the one of ``fl - 1 .. fl + 3`` with the
            least squared error.
        observer: how a held range is found while calibrating; None takes it from each tensor, as weights want it. Then
            the gradient passes where nothing is cut off, which with ``forbid`` is everywhere.
        narrow: no ``-2**(bits-1)``, so that integers still fit their type when a batch norm's negative factor flips
            their sign.

    Attributes:
        scale: 0-d float32 buffer, ``2**-fl`` (with an observer).

    Raises:
        UsageError: bits, overflow or observer are not offered.
    """

    scheme = "ristretto"
    channel_axis = None

    def __init__(
        self, bits: int = 8, overflow: Overflow = "forbid", observer: str | None = None, *, narrow: bool = False
    ) -> None:
        check_bits(bits, "bits")
        if overflow not in get_args(Overflow):
            raise UsageError(
                f"`overflow` is {overflow!r}", code="MC427", hint=f"one of: {', '.join(get_args(Overflow))}"
            )
        if observer is not None:
            check_observer(observer)
        top = 2 ** (bits - 1) - 1
        super().__init__(bits, -top if narrow else -top - 1, top, dynamic=observer is None)
        self.overflow = overflow
        self.calibration = observer
        if observer is not None:
            self.register_buffer("scale", torch.ones((), dtype=torch.float32))

    @property
    def freezable(self) -> bool:
        """Whether a weight quantiser has a range to hold."""
        return True

    @property
    def fl(self) -> int:
        """Fraction bits of the held range."""
        return -round(math.log2(float(self.scale)))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        if not self.dynamic:
            inside = self.inside(self.scale, self.qmin, self.qmax)
            return fake_quantize(x, self.scale, self.qmin, self.qmax, inside)
        scale = self.step(x)
        if self.overflow == "forbid":
            return straight_through(x, lambda each: snap(each, scale, self.qmin, self.qmax))
        return fake_quantize(x, scale, self.qmin, self.qmax)

    def fraction_bits(self, x: Tensor) -> int:
        """``fl`` of the tensor ``x``.

        Raises:
            StageError: it holds inf or nan.
        """
        if x.numel() == 0:
            return 0
        low, high = finite_extremes(x, self.name)
        return self._fraction_bits(x, max(-low, high), together=False)

    def first_batch(self, x: Tensor) -> None:
        """Take ``fl`` from ``x``, and from what the other ranks see."""
        low, high = self.batch_extremes(x)
        self._hold(self._fraction_bits(x, max(-float(low), float(high)), together=True))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Take the ``fl`` that covers ``[low, high]``."""
        if self.dynamic:
            super().set_range(low, high)
        self._hold(self._covering(max(-float(low), float(high), 0.0)))

    def fit(self, observer: Observer) -> None:
        """Take ``fl`` from what calibration has observed; ``saturate`` needs its histogram to weigh errors."""
        if self.overflow == "saturate" and isinstance(observer, HistogramObserver):
            lower, upper, counts = observer.histogram.values()
            fl = self._covering(observer.histogram.peak)
            self._hold(self._least_squares(fl, (lower + upper) / 2, counts))
        else:
            super().fit(observer)

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The integer grid: the held one, or that of ``x``.

        Raises:
            StageError: the range is not known yet.
            UsageError: the range comes from each tensor, and ``x`` is missing.
        """
        held = self.held_qparams()
        if held is not None:
            return held
        if not self.dynamic:
            return super().qparams()
        if x is None:
            raise UsageError("the range comes from each tensor", code="MC427", hint="call `qparams(x)`")
        return QParams(float(self.step(x)), 0, self.qmin, self.qmax)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 mantissas and their scale ``[1]``."""
        scale = self.step(x) if self.dynamic else self.scale
        return torch.div(x, scale).clamp_(self.qmin, self.qmax).round_(), scale.reshape(1)

    def why(self) -> str:
        """What the integers are, for the report."""
        return f"{self.bits}-bit fixed point" + ("" if self.dynamic else f", {self.fl} fraction bits")

    def step(self, x: Tensor) -> Tensor:
        """``2**-fl`` of the tensor ``x``, 0-d float32."""
        return torch.tensor(2.0 ** -self.fraction_bits(x), dtype=torch.float32, device=x.device)

    def _hold(self, fl: int) -> None:
        with torch.no_grad():
            self.scale.fill_(2.0**-fl)
        self.mark_ready()

    def _covering(self, largest: float) -> int:
        if not math.isfinite(largest):
            raise StageError(
                f"the range of `{self.name or 'a quantiser'}` is {largest}",
                code="MC424",
                why="training diverged",
                hint="lower `lr`",
            )
        if largest <= 0:
            return _MOST_FRACTION_BITS
        mantissa, exponent = math.frexp(largest)  # largest = mantissa * 2**exponent, mantissa in [1/2, 1)
        whole = (exponent - 1 if mantissa == 0.5 else exponent) + 1
        return min(self.bits - whole, _MOST_FRACTION_BITS)

    def _fraction_bits(self, x: Tensor, largest: float, *, together: bool) -> int:
        fl = self._covering(largest)
        if self.overflow == "forbid":
            return fl
        flat = x.detach().reshape(-1)
        sample = flat[:: flat.numel() // _SAMPLE | 1].double()
        return self._least_squares(fl, sample, torch.ones_like(sample), together=together)

    def _least_squares(self, fl: int, values: Tensor, counts: Tensor, *, together: bool = False) -> int:
        def error(candidate: int) -> Tensor:
            step = 2.0**-candidate
            kept = (values / step).round_().clamp_(self.qmin, self.qmax).mul_(step)
            return (kept.sub_(values).square_() * counts).sum()

        candidates = [min(each, _MOST_FRACTION_BITS) for each in range(fl - 1, fl + 4)]
        errors = torch.stack([error(each) for each in candidates])
        found = (joint_sum(errors) if together else errors).tolist()
        return candidates[found.index(min(found))]
