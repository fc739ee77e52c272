"""The activation quantiser of the graph: one per tensor, shared by everything that reads the tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.config import OFF
from mcomp.quantization.integers import MIN_SCALE, QParams
from mcomp.quantization.observers import FloatHistogram


class ActivationQuantizer(nn.Module):
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

    scale: Tensor
    initialised: Tensor

    def __init__(self, bits: int, signed: bool, levels: int | None = None, *, nonnegative_input: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.signed = signed
        self.qmax = 2 ** (bits - 1) - 1 if signed else levels or 2**bits - 1
        self.qmin = -self.qmax if signed else 0
        self.name = ""
        self.observer: FloatHistogram | None = None
        self._one_sided = nonnegative_input and not signed
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self._ready = False  # mirrors `initialised`, so that a forward pass never waits for the device

    @property
    def ready(self) -> bool:
        """Whether the range is known."""
        return self._ready or self.bits == OFF

    @property
    def clip(self) -> float:
        """Largest magnitude that is represented."""
        return float(self.scale) * self.qmax

    def set_clip(self, clip: float) -> None:
        """Fix the range to ``[-clip, clip]`` or ``[0, clip]``."""
        with torch.no_grad():
            self.scale.fill_(max(clip / self.qmax, MIN_SCALE))
            self.initialised.fill_(True)
        self._ready = True

    def qparams(self) -> QParams:
        """The integer grid, for an engine.

        Raises:
            StageError: the range is not known yet.
        """
        if not self.ready:
            raise self._no_range()
        return QParams(float(self.scale), 0, self.qmin, self.qmax)

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, in the type of ``x``."""
        if self.bits == OFF:
            return x
        if self.observer is not None:
            self.observer.update(x, self.name)
            return x
        if not self._ready:
            self._first_batch(x)
        if torch.is_grad_enabled() and x.requires_grad:
            quantised: Tensor = _FakeQuantize.apply(x, self.scale, self.qmin, self.qmax, self._one_sided)
            return quantised
        return snap(x, self.scale, self.qmin, self.qmax)

    def extra_repr(self) -> str:
        """Bits, levels and scale."""
        state = f"scale={float(self.scale):.4g}" if self._ready else "no range yet"
        return f"bits={self.bits}, levels={self.qmin}..{self.qmax}, {state}"

    def _first_batch(self, x: Tensor) -> None:
        if not self.training:
            raise self._no_range()
        peak = x.detach().abs().amax() if self.signed else x.detach().amax()
        largest = float(peak)
        if not largest < float("inf"):
            raise StageError(
                f"the first batch at `{self.name}` holds inf or nan",
                code="MC424",
                hint="check the data's normalisation and the checkpoint",
            )
        self.set_clip(max(largest, 0.0))

    def _no_range(self) -> StageError:
        return StageError(
            f"activation quantiser `{self.name or 'unnamed'}` has no range yet",
            code="MC423",
            why="it was neither calibrated nor trained",
            hint="run `mcomp.quantization.calibrate(model, batches)` first",
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = not self.initialised.is_meta and bool(self.initialised)


def snap(x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """``clamp(round(x / scale), qmin, qmax) * scale`` in float32, back in the type of ``x``."""
    grid = torch.div(x.float(), scale)
    return grid.clamp_(qmin, qmax).round_().mul_(scale).to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, qmin: int, qmax: int, one_sided: bool) -> Tensor:
        grid = torch.div(x.float(), scale)
        # bounds are whole numbers, so clamping before rounding gives the same level
        if one_sided:
            inside = grid.le(qmax)
            clamped = grid.clamp_(max=qmax)
        else:
            clamped = grid.clamp(qmin, qmax)
            inside = clamped.eq(grid)
        ctx.save_for_backward(inside)
        return clamped.round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        # as bytes: multiplying by a bool tensor converts through a slower path
        return grad * inside.view(torch.uint8), None, None, None, None
