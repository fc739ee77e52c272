"""Weights quantised as folded with the batch norm behind their layer, while both train: Jacob et al.
(arXiv:1712.05877), section 3.2, and Krishnamoorthi (arXiv:1806.08342), section 3.2.2.
"""  # noqa: D205  two papers take two lines

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mcomp.quantization.fake_quantize import masked
from mcomp.quantization.integers import MIN_SCALE, IntegerWeight, QParams, along_first
from mcomp.quantization.observers import extremes
from mcomp.quantization.observers.extremes import refuse_not_finite
from mcomp.quantization.pieces import rows
from mcomp.quantization.quantizers.affine import AffineQuantizer
from mcomp.quantization.quantizers.base import Quantizer

Folding = Literal["batch", "correction"]


@dataclass
class _Fold:
    """Per output channel: the factor, 0 where dead; the grid of the folded weight; whether the channel is alive."""

    factor: Tensor
    scale: Tensor
    zero: Tensor
    alive: Tensor


class BatchNormFoldedWeight(Quantizer):
    """Quantise ``W * c``, ``c = gamma / sqrt(v + eps)`` of a batch norm, and divide by ``c`` again.

    The batch norm stays where it is and multiplies by what was divided out, so the network computes with
    ``Q(W * c)``: normalised by running statistics (eval mode, frozen) that is the folded layer to the bit of its
    integers, normalised by those of the batch it is Jacob's folded layer, its output rescaled by
    ``sqrt(v_running + eps) / sqrt(v_batch + eps)``. A single convolution serves, and nothing is divided by gamma.

    * ``correction``: ``v`` is the running variance.
    * ``batch``: ``v`` is the variance of what the float weight makes of the batch, found by a second convolution
      without a gradient.

    The range is that of the weight folded with running statistics in both. The gradient passes straight through where
    nothing is clipped. A channel with ``|c| <= 2**-23`` is its constant: zeros in eval mode; in training its weight
    stays float, so that the batch norm's statistics, and the gradient of a gamma of 0, mean something.

    With a scale per output channel and zero points of 0, folding changes integers at most in sign: ``correction``
    then trains what training without it does. It matters where channels share a scale.

    Args:
        inner: the quantiser of the folded weight, with a range of each tensor's own.
        norm: the batch norm; it belongs to the model, not to the quantiser.
        folding: which variance.
        freeze_after: training steps after which the batch norm stays in eval mode; 0 for never.

    Attributes:
        steps: int64, 0-d buffer: training steps so far.
    """

    scheme = "iao"

    inner: AffineQuantizer
    norm: nn.modules.batchnorm._BatchNorm
    steps: Tensor

    def __init__(
        self, inner: AffineQuantizer, norm: nn.modules.batchnorm._BatchNorm, folding: Folding, freeze_after: int = 0
    ) -> None:
        super().__init__(inner.bits, inner.qmin, inner.qmax)
        # not registered: one has no state, and the other's has names already
        self.__dict__ |= {"inner": inner, "norm": norm}
        self.folding = folding
        self.freeze_after = freeze_after
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # mirrors `steps`, so that a forward pass never waits for the device
        self._variance: Tensor | None = None

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return True  # of the integers that are told: they are centred

    @property
    def integer_bits(self) -> int:
        """Signed bits that centred integers need."""
        return self.inner.integer_bits

    @property
    def frozen(self) -> bool:
        """Whether the batch norm's statistics are final."""
        return 0 < self.freeze_after <= self._steps

    def begin_step(self, outputs: Callable[[], Tensor]) -> None:
        """Take note of a training step; ``outputs`` computes what the float weight makes of the batch."""
        self._variance = None
        if self.frozen:
            self.norm.eval()
        if not (self.training and self.norm.training):
            return
        if self.folding == "batch":
            with torch.no_grad():
                _, variance = torch.ops.aten.batch_norm_update_stats(outputs().float(), None, None, 0.0)
            self._variance = variance
        if self.freeze_after:
            self._steps += 1
            self.steps += 1

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The weight to multiply with, ``Q(W * c) / c``, ``[outputs, ...]``."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._quantised(x, self._fold(x), None)
        quantised: Tensor = _ThroughFold.apply(x, self)
        return quantised

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Centred integers of ``W``, 0 in dead channels, and their scale ``[outputs]``: ``scale(W * c) / |c|``."""
        fold = self._fold(x)
        factor = torch.where(fold.alive, fold.factor, 1.0)
        levels = self._levels(x * along_first(fold.factor, x.dim()), fold, slice(None))
        scale = torch.where(fold.alive, fold.scale / factor.abs(), 1.0)
        return levels.mul_(along_first(factor.sign(), x.dim())), scale

    def integer(self, weight: Tensor) -> IntegerWeight:
        """The weight as integers; ``values * scale`` equals the fake-quantised weight of eval mode bit for bit."""
        found = super().integer(weight)
        return IntegerWeight(found.values, found.scale, self.integer_bits, why=self.why())

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The grid of the weight ``x``, one scale per output channel."""
        if x is None:
            return self.inner.qparams()
        _, scale = self.codes(x.detach().float())
        top = max(-self.qmin, self.qmax) if self.inner.symmetric else self.qmax - self.qmin
        return QParams(scale, 0, -top, top, axis=0)

    def why(self) -> str:
        """What the integers are, for the report."""
        return f"{self.inner.why()} of the weight folded with its batch norm"

    def state_key(self) -> tuple[Any, ...]:
        """Changes whenever a tensor that decides about the result has changed."""
        held = [each for each in (self.norm.weight, self.norm.running_var) if each is not None]
        return (
            *super().state_key(),
            *((each.data_ptr(), -1 if each.is_inference() else each._version) for each in held),
        )

    def extra_repr(self) -> str:
        """Folding, and when it freezes."""
        return f"folding={self.folding}, freeze_after={self.freeze_after}"

    def _factor(self, variance: Tensor) -> Tensor:
        factor = (variance.float() + self.norm.eps).rsqrt()
        return factor if self.norm.weight is None else factor * self.norm.weight.detach().float()

    def _fold(self, x: Tensor) -> _Fold:
        assert self.norm.running_var is not None
        running = self._factor(self.norm.running_var)
        factor = running if self._variance is None else self._factor(self._variance)
        alive = (running.abs() > MIN_SCALE) & (factor.abs() > MIN_SCALE)
        ends = [end.reshape(len(x)) * torch.where(alive, running, 0.0) for end in extremes(x, 0)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        if x.device.type == "cpu":
            refuse_not_finite(low, high, self.name)
        if self.inner.channel_axis is None:
            low, high = low.amin().expand(len(x)), high.amax().expand(len(x))
        scale, zero = self.inner.grid(low, high)
        return _Fold(torch.where(alive, factor, 0.0), scale, zero, alive)

    def _quantised(self, x: Tensor, fold: _Fold, mask: Tensor | None) -> Tensor:
        """``Q(W * c) / c``; ``mask`` is filled with where nothing is clipped."""
        result = torch.empty_like(x)
        back = fold.scale / torch.where(fold.alive, fold.factor, 1.0)
        for start, end in rows(x):  # a few channels at a time, while they are in the cache
            part = slice(start, end)
            folded = x[part].float() * along_first(fold.factor[part], x.dim())
            inside = None if mask is None else mask[part]
            result[part] = self._levels(folded, fold, part, inside).mul_(along_first(back[part], x.dim()))
        if self.training and (x.device.type != "cpu" or not bool(fold.alive.all())):
            return torch.where(along_first(fold.alive, x.dim()), result, x)
        return result

    def _levels(self, folded: Tensor, fold: _Fold, part: slice, inside: Tensor | None = None) -> Tensor:
        scale, zero = (along_first(each[part], folded.dim()) for each in (fold.scale, fold.zero))
        grid = folded.div_(scale)
        if inside is not None:
            level = torch.clamp(grid, self.qmin - zero, self.qmax - zero)
            inside.copy_(torch.eq(grid, level, out=level))  # to floats first: it is faster
        grid.round_()
        if not self.inner.symmetric:
            return grid.add_(zero).clamp_(self.qmin, self.qmax).sub_(zero)
        return grid.clamp_(self.qmin, self.qmax)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._steps = 0 if self.steps.is_meta else int(self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_variance": None}


class _ThroughFold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: BatchNormFoldedWeight) -> Tensor:
        fold = quantizer._fold(x)
        clips = quantizer._variance is not None  # the range is that of the running fold
        mask = torch.empty_like(x, dtype=torch.bool) if clips else None
        ctx.save_for_backward(mask)
        ctx.spent = quantizer.spent
        return quantizer._quantised(x, fold, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return grad if mask is None else masked(grad, mask, spent=ctx.spent), None
