"""A range that is held and saved: what calibrated and learned quantisers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mcomp.quantization.across_ranks import joint_extremes, several_ranks
from mcomp.quantization.config import OFF, check_bits
from mcomp.quantization.fake_quantize import Inside, inside_bounds
from mcomp.quantization.integers import QParams
from mcomp.quantization.observers import HistogramObserver, extremes
from mcomp.quantization.observers.extremes import refuse_not_finite
from mcomp.quantization.pieces import at_hand
from mcomp.quantization.quantizers.base import Quantizer


def largest_level(bits: int, signed: bool, levels: int | None = None) -> int:
    """The largest level of a grid around 0, or of one from 0 on, where ``levels`` may set another.

    Raises:
        UsageError: bits are not offered.
    """
    check_bits(bits, "bits")
    return 2 ** (bits - 1) - 1 if signed else levels or 2**bits - 1


class HeldRangeQuantizer(Quantizer):
    """A quantiser with one held ``scale`` and zero point 0; a buffer or a parameter, as the subclass registers it.

    Attributes:
        scale: 0-d float32.
        initialised: 0-d bool buffer, saved with the model.
    """

    scale: Tensor
    initialised: Tensor

    def __init__(
        self, bits: int, qmin: int, qmax: int, *, nonnegative_input: bool = False, dynamic: bool = False
    ) -> None:
        super().__init__(bits, qmin, qmax)
        self._dynamic = dynamic
        self._one_sided = nonnegative_input and qmin == 0
        self._ready = dynamic  # mirrors `initialised`, so that a forward pass never waits for the device
        self._inside: tuple[Any, Inside] | None = None
        if not dynamic:
            self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @property
    def dynamic(self) -> bool:
        """Whether the range comes from the tensor at hand."""
        return self._dynamic

    @property
    def ready(self) -> bool:
        """Whether the range is known."""
        return self._ready or self.bits == OFF

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The integer grid.

        Raises:
            StageError: the range is not known yet.
        """
        if not self.ready:
            raise self.no_range()
        return QParams(float(self.effective_scale()), 0, self.qmin, self.qmax)

    def take_relu(self) -> bool:
        """Apply the ReLU in front of this quantiser here: an unsigned grid ends at 0 anyway."""
        self.relu = self.qmin == 0 and self.symmetric and not self.dynamic and self.bits != OFF
        return self.relu

    def follow(self, x: Tensor) -> None:
        """Take the range from the first training batch, that of all ranks where several train together."""
        if not self.has_range():
            self.first_batch(F.relu(x) if self.relu else x)

    def has_range(self) -> bool:
        """Whether the range is known by now: another rank may have sent the one that it was calibrated with."""
        if not self._ready and several_ranks():
            self._ready = bool(self.initialised)
        return self._ready

    def first_batch(self, x: Tensor) -> None:
        """Set the range to the extremes of ``x``.

        Raises:
            StageError: ``x`` holds inf or nan.
        """
        self.set_range(*self.batch_extremes(x))

    def batch_extremes(self, x: Tensor, axis: int | None = None) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of a training batch, along ``axis`` or of all; of every rank's batch together.

        Raises:
            StageError: one of them is inf or nan.
        """
        low, high = joint_extremes(*extremes(x, axis))
        refuse_not_finite(low, high, self.name)
        return low, high

    def initialise(self, weight: Tensor) -> None:
        """Set the range of least squared error for a weight, unless there is one already."""
        if self.bits != OFF and not self._ready:
            observer = HistogramObserver("mse")
            observer.update(weight.detach(), self.name)
            self.fit(observer)

    def mark_ready(self) -> None:
        """Note that the range is known."""
        with torch.no_grad():
            self.initialised.fill_(True)
        self._ready = True

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes and their scale ``[1]``."""
        scale = self.effective_scale()
        return torch.div(x, scale).clamp_(self.qmin, self.qmax).round_(), scale.reshape(1)

    def effective_scale(self) -> Tensor:
        """The scale that is computed with, no gradient attached."""
        return self.scale.detach()

    def inside(self, scale: Tensor, low: int, high: int, *, closed: bool = True) -> Inside | None:
        """Limits for :func:`~mcomp.quantization.fake_quantize.pass_inside`, kept until the scale changes."""
        if not at_hand(scale) or self.scale.is_inference():
            return None
        key = (id(self.scale), self.scale._version, low, high)
        if self._inside is None or self._inside[0] != key:
            bounds = inside_bounds(float(scale), low, high, closed=closed)
            if self._one_sided:
                bounds = float("-inf"), bounds[1]
            self._inside = (key, bounds)
        return self._inside[1]

    def extra_repr(self) -> str:
        """Bits, levels and scale."""
        state = "range of each tensor" if self.dynamic else "no range yet"
        if self._ready and not self.dynamic:
            state = f"scale={float(self.effective_scale().max()):.4g}"
        return f"bits={self.bits}, levels={self.qmin}..{self.qmax}, {state}" + (", relu" if self.relu else "")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inside": None}  # keyed by identity, which a copy does not share

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("scale", "zero_point"):  # a checkpoint decides how many channels there are
            own, given = getattr(self, name, None), state_dict.get(prefix + name)
            if name in self._buffers and own is not None and given is not None and own.shape != given.shape:
                setattr(self, name, torch.empty_like(given, dtype=own.dtype, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self.dynamic:
            self._ready = not self.initialised.is_meta and bool(self.initialised)
