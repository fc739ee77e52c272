"""What every quantiser is: a module that returns the fake-quantised tensor and knows the integers behind it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError, UsageError
from mcomp.quantization.across_ranks import several_ranks
from mcomp.quantization.config import OFF
from mcomp.quantization.fake_quantize import fake_quantize
from mcomp.quantization.integers import IntegerWeight, QParams, along_first

if TYPE_CHECKING:
    from mcomp.quantization.observers import Observer


_OF_FROZEN = ("range_frozen", "held_scale", "held_zero_point")


class Quantizer(nn.Module):
    """Base of all quantisers, of weights and of activations alike.

    ``forward`` fake-quantises in float32 and answers in the type and memory format of its input. There are two kinds:

    * A *dynamic* quantiser takes its range from the tensor at hand and holds no state (weights on a min-max scale,
      activations quantised at run time). It is always ready, and :meth:`qparams` needs the tensor.
    * A *static* one holds its range: in buffers, set by :meth:`set_range`, by calibration or by the first training
      batch, or in parameters that train. It is ready once the range is known; whether it is, is saved with it.

    In eval mode nothing ever changes. While :meth:`watch` has an observer in place, tensors pass as they are.
    A range that :meth:`freeze` made constant is so in the state too: ``range_frozen``, and for a dynamic quantiser
    ``held_scale`` and ``held_zero_point``, are buffers from then on, and what is loaded decides about all three.

    Args:
        bits: nominal bits; 32 passes the tensor through.
        qmin: smallest integer.
        qmax: largest integer.

    Attributes:
        scheme: name of the family, for reports.
        name: the quantiser's place in its model, for messages.
        calibration: the observer that it wants to be calibrated with, or None for the usual one.
        spent: whether the gradient of its result is read by nothing else, so that it may be written over: so it is of
            the weight of a layer, which makes that gradient for its weight alone.
        relu: whether it applies the ReLU that stood in front of it, see :meth:`take_relu`.
    """

    scheme: ClassVar[str] = ""

    def __init__(self, bits: int, qmin: int, qmax: int) -> None:
        super().__init__()
        self.bits = bits
        self.qmin = qmin
        self.qmax = qmax
        self.name = ""
        self._calibrator: Observer | None = None
        self.calibration: str | None = None
        self.relu = False
        self.spent = False
        self._constant = False  # mirrors `range_frozen`, so that a forward pass never waits for the device

    @property
    def signed(self) -> bool:
        """Whether negative values are represented."""
        return self.qmin < 0

    @property
    def dynamic(self) -> bool:
        """Whether the range comes from the tensor at hand."""
        return True

    @property
    def ready(self) -> bool:
        """Whether the range is known."""
        return True

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return True

    @property
    def constant(self) -> bool:
        """Whether the range was frozen."""
        return self._constant

    @property
    def freezable(self) -> bool:
        """Whether a dynamic quantiser has a range of its own to hold: scales that are means of a weight are none."""
        return False

    @property
    def integer_bits(self) -> int:
        """Signed bits that the integers of a weight need, with either sign: a batch norm may have a negative factor."""
        return self.bits + (-self.qmin > self.qmax)

    @property
    def clip(self) -> float:
        """Largest magnitude that is represented."""
        grid = self.qparams()
        zero = torch.as_tensor(grid.zero_point)
        reach = torch.maximum((zero - grid.qmin).abs(), (grid.qmax - zero).abs())
        return float((torch.as_tensor(grid.scale) * reach).max())

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> Tensor:
        """The quantised tensor, its range being known."""

    @abstractmethod
    def qparams(self, x: Tensor | None = None) -> QParams:
        """The integer grid; a dynamic quantiser needs the tensor ``x`` to tell.

        Raises:
            StageError: the range is not known yet.
        """

    @abstractmethod
    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes of ``x`` and their scale, ``[1]`` or one per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, in the type and memory format of ``x``; an empty one passes as it is."""
        if self.bits == OFF or not x.numel():
            self._refuse_silence()
            return x
        if self._calibrator is not None:
            x = F.relu(x) if self.relu else x
            self._calibrator.update(x, self.name)
            return x
        if self.training:
            self.follow(x)
        elif not self.ready:
            raise self.no_range()
        held = self.held_grid()
        if held is None:
            return self.fake_quantize(x)
        scale, zero = (_along_outputs(each, x) for each in held)
        return fake_quantize(self.warped(x), scale, self.qmin - zero, self.qmax - zero).to(x.dtype)

    def watch(self, observer: Observer | None) -> None:
        """Show every tensor to ``observer`` and let it pass unquantised; None ends that."""
        object.__setattr__(self, "_calibrator", observer)  # a visitor, no part of the model's modules and state

    def take_relu(self) -> bool:
        """Apply the ReLU in front of this quantiser here, for less time and memory; False where it has to stay."""
        return False

    def follow(self, x: Tensor) -> None:
        """Learn the range from a training batch where that is this quantiser's way."""

    def set_range(self, low: float | Tensor, high: float | Tensor) -> None:
        """Fix the range to ``[low, high]``; a symmetric grid takes the larger magnitude, an unsigned one ``high``."""
        raise TypeError(f"{type(self).__name__} takes its range from each tensor")

    def set_clip(self, clip: float | Tensor) -> None:
        """Fix the range to ``[-clip, clip]``, or ``[0, clip]`` on an unsigned grid."""
        self.set_range(-clip if self.signed or not self.symmetric else 0.0, clip)

    def fit(self, observer: Observer) -> None:
        """Set the range from what calibration has observed."""
        if self.symmetric:
            self.set_clip(observer.clip(self.qmax, self.signed))
        else:
            self.set_range(*observer.range(self.qmax - self.qmin))

    def initialise(self, weight: Tensor) -> None:
        """Set a range that keeps the function of a trained weight; a dynamic quantiser has nothing to set."""

    def freeze(self, weight: Tensor | None = None) -> None:
        """Let the range never move again.

        Args:
            weight: output channels first; a dynamic quantiser holds the range of this weight from now on, and then the
                gradient is 0 outside of it. Without one, or where there is no range (binary, ternary), it stays as
                it is.
        """
        self._become(constant=True)
        if weight is not None and self.dynamic and self.freezable and self.bits != OFF and self.held_grid() is None:
            found = self.integer(weight)
            zero = torch.zeros_like(found.scale) if found.zero_point is None else found.zero_point
            self.register_buffer("held_scale", found.scale.detach().clone())
            self.register_buffer("held_zero_point", zero.to(torch.int32))
        self.register_buffer("range_frozen", torch.ones((), dtype=torch.bool, device=self._device(weight)))

    def held_grid(self) -> tuple[Tensor, Tensor] | None:
        """Scale and zero point of a dynamic quantiser that was frozen, ``[1]`` or ``[channels]`` in float32."""
        scale = self._buffers.get("held_scale")
        return None if scale is None else (scale, self.get_buffer("held_zero_point").float())

    def held_codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Integer-valued float32 codes of ``x``, zero point included, on the grid of :meth:`held_grid`; and that."""
        held = self.held_grid()
        if held is None:
            return None
        scale, zero = (_along_outputs(each, x) for each in held)
        codes = self.warped(x) / scale
        return codes.round_().add_(zero).clamp_(self.qmin, self.qmax), *held

    def held_qparams(self) -> QParams | None:
        """The grid of :meth:`held_grid`."""
        held = self.held_grid()
        if held is None:
            return None
        scale, zero = held[0].detach(), held[1].to(torch.int32)
        if scale.numel() == 1:
            return QParams(float(scale), int(zero), self.qmin, self.qmax)
        return QParams(scale, zero if bool(zero.any()) else 0, self.qmin, self.qmax, axis=0)

    def warped(self, x: Tensor) -> Tensor:
        """What of a weight meets the grid."""
        return x

    def adopt_buffers(self, state: dict[str, Any], prefix: str) -> None:
        """Have those buffers of a frozen range that ``state`` has under ``prefix``; older ones have none."""
        for name in _OF_FROZEN:
            given, own = state.get(prefix + name), self._buffers.get(name)
            if given is None:
                self._buffers.pop(name, None)
            elif own is None or own.shape != given.shape:
                device = next((each.device for each in [*self.parameters(), *self.buffers()]), given.device)
                self.register_buffer(name, torch.empty_like(given, device=device if own is None else own.device))
        self._become(constant="range_frozen" in self._buffers)

    def _refuse_silence(self) -> None:
        """Refuse an empty batch of one rank whose share in a common range the other ranks would wait for."""
        asks = self.training and not self.constant and not self.dynamic and self._calibrator is None
        if self.bits != OFF and asks and several_ranks():
            raise UsageError(
                f"rank {torch.distributed.get_rank()} trains on an empty batch, seen at `{self.name or 'a tensor'}`",
                code="MC429",
                why="ranges are those of all ranks together, and the others wait for this one's",
                hint="give every rank a batch, `drop_last=True` in the sampler say, or freeze the ranges first",
            )

    def _become(self, *, constant: bool) -> None:
        if constant != self._constant:
            for parameter in self.parameters():
                parameter.requires_grad_(not constant)
            self._constant = constant

    def _device(self, weight: Tensor | None) -> torch.device:
        held = [*self.parameters(), *self.buffers(), *([] if weight is None else [weight])]
        return held[0].device if held else torch.device("cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.adopt_buffers(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def integer(self, weight: Tensor) -> IntegerWeight:
        """The weight as integers; ``values * scale`` equals the fake-quantised weight bit for bit.

        Raises:
            StageError: the weight holds inf or nan, or this quantiser is off or has no range.
        """
        if self.bits == OFF:
            raise StageError("a float weight has no integers", code="MC422", hint="w_bits 32 keeps a weight in float")
        if not bool(torch.isfinite(weight).all()):
            raise StageError(
                f"a weight of shape {tuple(weight.shape)} holds inf or nan",
                code="MC424",
                why="training diverged, or the checkpoint is damaged",
                hint="lower `lr`, or start from an earlier checkpoint",
            )
        if not self.ready:
            raise self.no_range()
        with torch.no_grad():
            held = self.held_codes(weight.detach().float())
            values, scale = self.codes(weight.detach().float()) if held is None else held[:2]
        needed = self.integer_bits - (-self.qmin > self.qmax)  # as they are, no sign flipped
        return IntegerWeight(values.to(torch.int32), scale, needed, why=self.why())

    def why(self) -> str:
        """What the integers are, for the report."""
        return f"{self.bits}-bit symmetric integers"

    def state_key(self) -> tuple[Any, ...]:
        """Changes whenever a tensor that decides about the result has changed."""
        held = [*self.parameters(), *self.buffers()]
        return tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in held)

    def warp(self) -> nn.Module | None:
        """What happens to a tensor before it meets the grid of :meth:`qparams`, in operations that export; or None."""
        return nn.ReLU() if self.relu else None

    def no_range(self) -> StageError:
        """The refusal of a quantiser that was never given a range."""
        return StageError(
            f"quantiser `{self.name or 'unnamed'}` has no range yet",
            code="MC423",
            why="it was neither calibrated nor trained",
            hint="run `mcomp.quantization.calibrate(model, batches)` first",
        )


def _along_outputs(each: Tensor, x: Tensor) -> Tensor:
    each = each.to(x.device)  # a state that was loaded from the CPU
    return along_first(each, x.dim()) if each.numel() > 1 else each.reshape(())
