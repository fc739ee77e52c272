"""Affine quantisation after Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (arXiv:1712.05877), of weights and of activations.
"""  # noqa: D205  the paper's title takes two lines

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mcomp.errors import UsageError
from mcomp.quantization.across_ranks import joint_extremes
from mcomp.quantization.config import check_bits
from mcomp.quantization.fake_quantize import Bound, fake_quantize, relu_fake_quantize, snap, straight_through
from mcomp.quantization.integers import MIN_SCALE, IntegerWeight, QParams, along, along_first
from mcomp.quantization.observers import MinMaxObserver, build_observer, extremes
from mcomp.quantization.observers.extremes import refuse_not_finite, relu_extremes
from mcomp.quantization.pieces import arithmetic_dtype, at_hand, rows
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer, largest_level


class AffineQuantizer(HeldRangeQuantizer):
    """Fake-quantise to ``(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``.

    Symmetric: zero point 0, integers ``-n..n`` (``n = 2**(bits-1) - 1``), or ``0..2**bits - 1`` unsigned;
    ``scale = max|x| / n``. Asymmetric: the range is widened to hold 0, so that padding is exact,
    ``scale = (high - low) / (qmax - qmin)``, and the zero point is an integer in ``[qmin, qmax]``. A scale is
    never below 2**-23: a dead channel becomes zeros.

    The gradient is ``g`` inside the clip range, its ends included, and 0 outside. A range taken from the tensor
    itself clips nothing, so there it is ``g`` everywhere.

    Args:
        bits: 2..16; 32 passes the tensor through.
        symmetric: zero point 0.
        channel_axis: the dimension with a scale per entry (0 for the output channels of a weight); None for one scale.
        observer: ``moving_average`` and ``minmax`` follow the training batches and are saved with the model; ``mse``,
            ``percentile`` and ``entropy`` move while calibrating only. None takes the range from each tensor,
            which is what weights want, and activations that are quantised at run time.
        signed: whether integers can be negative.
        levels: the largest level of an unsigned symmetric grid.
        nonnegative_input: the input is proven to be never below 0.

    Attributes:
        scale: float32 buffer, 0-d or ``[channels]`` (with an observer).
        zero_point: int32 buffer of the same shape.
        observer: the module that follows training, or None.

    Shape:
        any, to the same shape, type and memory format; computed in float32.

    Raises:
        UsageError: bits or observer are not offered.
    """

    scheme = "iao"

    zero_point: Tensor

    def __init__(
        self,
        bits: int = 8,
        symmetric: bool = True,
        channel_axis: int | None = None,
        observer: str | None = None,
        *,
        signed: bool = True,
        levels: int | None = None,
        nonnegative_input: bool = False,
    ) -> None:
        check_bits(bits, "bits")
        if symmetric:
            qmax = largest_level(bits, signed, levels)
            qmin = -qmax if signed else 0
        else:
            qmin = -(2 ** (bits - 1)) if signed else 0
            qmax = qmin + 2**bits - 1
        super().__init__(bits, qmin, qmax, nonnegative_input=nonnegative_input, dynamic=observer is None)
        self._symmetric = symmetric
        self.channel_axis = channel_axis
        self.calibration = observer
        self.observer: MinMaxObserver | None = None
        if observer is not None:
            watching = build_observer(observer, channel_axis)
            self.observer = watching if isinstance(watching, MinMaxObserver) else None
            self.register_buffer("scale", torch.ones((), dtype=torch.float32))
            self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return self._symmetric

    @property
    def freezable(self) -> bool:
        """Whether a weight quantiser has a range to hold: it sees the output channels first."""
        return self.channel_axis in (None, 0)

    @property
    def integer_bits(self) -> int:
        """Signed bits that ``code - zero_point`` needs."""
        return self.bits if self.signed and self.symmetric else self.bits + 1

    def grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (whole, float32) for a range, in its shape."""
        if self.symmetric:
            scale = self._symmetric_scale(low, high)
            return scale, torch.zeros_like(scale)
        low, high = low.clamp(max=0), high.clamp(min=0)
        steps = self.qmax - self.qmin
        scale = (high / steps - low / steps).clamp_(min=MIN_SCALE)  # divided first: the width itself may overflow
        return scale, (self.qmin - low / scale).round_().clamp_(self.qmin, self.qmax)

    def _symmetric_scale(self, low: Tensor, high: Tensor) -> Tensor:
        peak = torch.maximum(-low, high) if self.signed else high.clamp(min=0)
        return peak.div_(self.qmax).clamp_(min=MIN_SCALE)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""
        if self.relu:
            return relu_fake_quantize(x, self.scale, self.qmax)
        if not self.dynamic:
            scale, low, high = self._held(x)
            if self.channel_axis is not None:
                return fake_quantize(x, scale, low, high)
            inside = self.inside(self.scale, low, high) if isinstance(low, int) and isinstance(high, int) else None
            return fake_quantize(x, scale, low, high, inside)
        if self.symmetric and not self.signed:  # the one range of a tensor's own that clips: below 0
            scale, _ = self._measured(x)
            return fake_quantize(x, scale, self.qmin, self.qmax)
        return straight_through(x, self._snap_by_rows if self._axis(x) == 0 else self._snap)

    def follow(self, x: Tensor) -> None:
        """Let the observer see a training batch, every rank's, or take the range from the first one."""
        if self.dynamic or self.constant:
            return
        if self.observer is not None and x.numel():
            seen = relu_extremes(x) if self.relu else extremes(x, self._axis(x))
            self.observer.see(*joint_extremes(*seen), self.name)
            if self.symmetric and self._ready and self.scale.shape == self.observer.high.shape:
                self.scale.copy_(self._symmetric_scale(self.observer.low, self.observer.high))
            else:
                self._take(*self.observer.range(0))
        elif not self.has_range():
            self.first_batch(F.relu(x) if self.relu else x)

    def take_relu(self) -> bool:
        """Apply the ReLU in front of this quantiser here, where one unsigned grid serves the whole tensor."""
        return self.channel_axis is None and super().take_relu()

    def first_batch(self, x: Tensor) -> None:
        """Set the range to the extremes of ``x``."""
        self.set_range(*self.batch_extremes(x, self._axis(x)))

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Fix the range to ``[low, high]``, numbers or ``[channels]``; an observer that moves goes on from there."""
        if self.dynamic:
            super().set_range(low, high)
        low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
        if self.observer is not None:
            self.observer.reset(low, high)
        self._take(low, high)

    def set_clip(self, clip: float | Tensor) -> None:
        """Fix the range to ``[-clip, clip]``, or ``[0, clip]`` on an unsigned symmetric grid."""
        self.set_range(
            -torch.as_tensor(clip) if self.signed or not self.symmetric else 0.0 * torch.as_tensor(clip), clip
        )

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The integer grid: the held one, or that of ``x``.

        Raises:
            StageError: the range is not known yet.
            UsageError: the range comes from each tensor, and ``x`` is missing.
        """
        if not self.ready:
            raise self.no_range()
        held = self.held_qparams()
        if held is not None:
            return held
        if not self.dynamic:
            scale, zero_point = self.scale, self.zero_point
        elif x is None:
            raise UsageError(
                f"the range of `{self.name or 'an AffineQuantizer without observer'}` comes from each tensor",
                code="MC427",
                hint="call `qparams(x)`, or give it an observer",
            )
        else:
            scale, zero_point = self.grid(*extremes(x, self._axis(x)))
        if self.channel_axis is None or scale.dim() == 0:
            return QParams(float(scale), int(zero_point), self.qmin, self.qmax)
        return QParams(scale.detach(), zero_point.to(torch.int32), self.qmin, self.qmax, self.channel_axis)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes, zero point included, and their scale, ``[1]`` or ``[channels]``."""
        codes, scale, _ = self._codes(x)
        return codes, scale

    def integer(self, weight: Tensor) -> IntegerWeight:
        """The weight as integers; ``(values - zero_point) * scale`` equals the fake-quantised weight bit for bit."""
        found = super().integer(weight)
        _, scale, zero_point = self._codes(weight.detach().float())
        return IntegerWeight(
            found.values,
            scale,
            self.bits if self.signed else self.bits + 1,
            why=self.why(),
            zero_point=None if self.symmetric else zero_point.to(torch.int32).reshape(scale.shape),
            axis=self._axis(weight) or 0,
        )

    def why(self) -> str:
        """What the integers are, for the report."""
        return f"{self.bits}-bit {'symmetric' if self.symmetric else 'asymmetric'} integers"

    def extra_repr(self) -> str:
        """Bits, levels, axis and scale."""
        axis = "" if self.channel_axis is None else f", channel_axis={self.channel_axis}"
        return super().extra_repr() + axis

    def _axis(self, x: Tensor) -> int | None:
        return None if self.channel_axis is None or x.dim() == 0 else self.channel_axis % x.dim()

    def _measured(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of ``x`` itself, shaped to broadcast against it."""
        axis = self._axis(x)
        low, high = extremes(x, axis)
        if at_hand(x):
            refuse_not_finite(low, high, self.name)
        scale, zero_point = self.grid(low, high)
        if axis is None:
            return scale, zero_point
        return along(scale, x.dim(), axis), along(zero_point, x.dim(), axis)

    def _snap(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return torch.empty_like(x)
        scale, zero_point = self._measured(x)
        if self.symmetric:
            return snap(x, scale, self.qmin, self.qmax)
        return snap(x, scale, self.qmin - zero_point, self.qmax - zero_point)

    def _snap_by_rows(self, x: Tensor) -> Tensor:
        """Range and rounding of a few output channels at a time, while they are in the cache."""
        result = torch.empty_like(x)
        kind = arithmetic_dtype(x)
        others = tuple(range(1, x.dim()))
        scales = []
        for part, made in rows(x, result) if x.numel() else ():
            source = part.to(kind)
            target = made if x.dtype == kind else torch.empty_like(source)
            low, high = (source.amin(others), source.amax(others)) if others else (source, source)
            if self.symmetric:
                scales.append(self._symmetric_scale(low, high))
                scale = along_first(scales[-1], x.dim())
                torch.div(source, scale, out=target).round_().mul_(scale)
            else:  # both ends are rounded, which may leave the grid by one
                found, zero = self.grid(low, high)
                scales.append(found)
                scale, zero = along_first(found, x.dim()), along_first(zero, x.dim())
                torch.div(source, scale, out=target).round_().add_(zero)
                target.clamp_(self.qmin, self.qmax).sub_(zero).mul_(scale)
            if target is not made:
                made.copy_(target)
        if at_hand(x) and scales and not float(torch.cat(scales).amax()) < float("inf"):
            refuse_not_finite(*extremes(x, 0), self.name)
        return result

    def _held(self, x: Tensor) -> tuple[Tensor, Bound, Bound]:
        """The held scale and the levels at the ends of the grid, less the zero point."""
        axis = self._axis(x)
        scale = self.scale if axis is None or self.scale.dim() == 0 else along(self.scale, x.dim(), axis)
        if self.symmetric:
            return scale, self.qmin, self.qmax
        if self.zero_point.dim() == 0 and at_hand(self.zero_point):
            zero = int(self.zero_point)
            return scale, self.qmin - zero, self.qmax - zero
        shift = self.zero_point if axis is None else along(self.zero_point, x.dim(), axis)
        return scale, self.qmin - shift, self.qmax - shift

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        held = self.held_codes(x)
        if held is not None:
            return held
        if self.dynamic:
            scale, zero_point = self._measured(x)
        else:
            scale, zero_point = self.scale, self.zero_point.float()
            if self._axis(x) is not None and scale.dim():
                scale, zero_point = (along(each, x.dim(), self._axis(x) or 0) for each in (scale, zero_point))
        codes = torch.div(x, scale).round_().add_(zero_point).clamp_(self.qmin, self.qmax)
        return codes, scale.flatten(), zero_point.flatten()

    def _take(self, low: float | Tensor, high: float | Tensor) -> None:
        ends = (torch.as_tensor(end, dtype=torch.float32, device=self.scale.device) for end in (low, high))
        with torch.no_grad():
            for name, value in zip(("scale", "zero_point"), self.grid(*ends), strict=True):
                own = getattr(self, name)
                if own.shape == value.shape:
                    own.copy_(value)
                else:
                    setattr(self, name, value.to(own.dtype))
        if not self._ready:
            self.mark_ready()
