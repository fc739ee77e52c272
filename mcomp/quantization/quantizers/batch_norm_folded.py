"""Weights quantised as folded with the batch norm behind their layer, while both train: Jacob et al.
(arXiv:1712.05877), section 3.2, and Krishnamoorthi (arXiv:1806.08342), section 3.2.2.
"""  # noqa: D205  two papers take two lines

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mcomp.errors import StageError
from mcomp.quantization.batch_statistics import BatchStatistics, normalised
from mcomp.quantization.fake_quantize import inside_bounds, pass_inside, straight_through
from mcomp.quantization.integers import MIN_SCALE, IntegerWeight, QParams, along_first
from mcomp.quantization.observers import extremes
from mcomp.quantization.observers.extremes import refuse_not_finite
from mcomp.quantization.pieces import at_hand, gradient_buffer, rows
from mcomp.quantization.quantizers.affine import AffineQuantizer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.ristretto import RistrettoQuantizer

Folding = Literal["batch", "correction"]
#: What may quantise a folded weight: with a range of each tensor's own.
Foldable = AffineQuantizer | RistrettoQuantizer
#: Of so many passes one looks whether the batch norm runs, where nothing else depends on that. One miss is none: a pass
#: may break off, and one of a checkpoint may end in front of the batch norm.
_LOOK = 64


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
    integers.

    In training the batch norm normalises by the mean ``m`` and the biased variance ``v_batch`` of what the *float*
    weight makes of the batch, and tracks these, whatever the rounded weight makes of it:

    * ``correction``: ``conv(x, Q(W * c)) * sqrt(v_running + eps) / sqrt(v_batch + eps)``, ``v`` the running variance,
    * ``batch``: ``conv(x, Q(W * c))`` with ``v = v_batch``,

    both plus ``beta - m * gamma / sqrt(v_batch + eps)``. The range is that of the weight folded with running statistics
    in both. That takes a second convolution, forward only: the gradients are those of the batch norm of the float
    convolution, with the rounding passed straight through. So ``gamma`` and ``beta`` get what they get without
    quantisation, ``W`` does too but 0 where it is clipped, and what the layer reads gets its gradient through the
    weight that was multiplied with. Nothing is divided by gamma.

    With a scale per output channel, folding changes integers at most in sign: ``correction`` then trains what training
    without it does, with a single convolution and the statistics of what that convolution makes. A channel with
    ``|c| <= 2**-23`` is its constant: zeros in eval mode; in such training its weight stays float, as that of a channel
    too small for its scale does, so that the statistics, and the gradient of a gamma of 0, mean something.

    Args:
        inner: the quantiser of the folded weight, with a range of each tensor's own.
        norm: the batch norm; it belongs to the model, not to the quantiser.
        folding: which variance.
        freeze_after: forward passes in training mode, each of a gradient accumulation included, after which the batch
            norm stays in eval mode; 0 for never.

    Attributes:
        steps: int64, 0-d buffer: forward passes in training mode so far.
    """

    scheme = "iao"

    inner: Foldable
    norm: nn.modules.batchnorm._BatchNorm
    steps: Tensor

    def __init__(
        self, inner: Foldable, norm: nn.modules.batchnorm._BatchNorm, folding: Folding, freeze_after: int = 0
    ) -> None:
        super().__init__(inner.bits, inner.qmin, inner.qmax)
        # not registered: one has no state, and the other's has names already
        self.__dict__ |= {"inner": inner, "norm": norm, "scheme": inner.scheme}
        self.folding = folding
        self.freeze_after = freeze_after
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # mirrors `steps`, so that a forward pass never waits for the device
        self._awaited: list[RemovableHandle] = []
        self._passes = self._missed = 0  # where the batch norm only has to be there, which is looked after now and then
        self._ends = inside_bounds(1.0, inner.qmin, inner.qmax)

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return True  # of the integers that are told: they are centred

    @property
    def integer_bits(self) -> int:
        """Signed bits that centred integers need."""
        return self.inner.integer_bits

    @property
    def fixed_point(self) -> bool:
        """Whether the scale of the folded weight is a power of two."""
        return isinstance(self.inner, RistrettoQuantizer)

    @property
    def frozen(self) -> bool:
        """Whether the batch norm's statistics are final."""
        return 0 < self.freeze_after <= self._steps

    def begin_step(self) -> bool:
        """Take note of a forward pass; whether it is one for :meth:`outputs`.

        Raises:
            StageError: the batch norm did not run behind the last one.
        """
        if self.frozen:
            self.norm.eval()
        missed = self._came()
        if not self.training:
            return False
        counts = self.norm.training
        two = (self.folding == "batch" or self.inner.channel_axis is None) and self._calibrator is None
        seldom = not two and not self.freeze_after and not torch.compiler.is_compiling()
        if seldom:
            self._missed = self._missed + 1 if missed else 0
        if missed and (two or self.freeze_after or self._missed > 1):
            raise StageError(
                f"the batch norm that `{self.name or 'a layer'}` was folded with no longer runs behind it",
                code="MC420",
                why="another module took its place, as `convert_sync_batchnorm` does",
                hint="quantise the model once its batch norms are what they shall be, or leave `fold_bn` out",
            )
        if self.freeze_after and counts:
            self._steps += 1
            self.steps += 1
        if two and counts:
            return True
        if two or self.freeze_after or (seldom and (self._missed or self._passes % _LOOK == 0)):
            self._await(lambda output: output)
        self._passes += seldom
        return False

    def outputs(
        self, weight: Tensor, axis: int, bias: Tensor | None, convolution: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What the float weight makes of the batch; the batch norm tracks that, and answers for the quantised weight.

        Args:
            weight: of the layer.
            axis: where it has its output channels.
            bias: of the layer.
            convolution: of the batch with a weight and the bias, ``[batch, outputs, ...]``.
        """
        with torch.no_grad():
            made = convolution(weight)
            seen = BatchStatistics.of(made)
            of_batch = self._factor(seen.variance)
            beta = torch.zeros_like(of_batch) if self.norm.bias is None else self.norm.bias.float()
            shift = torch.addcmul(beta, seen.mean, of_batch, value=-1)
            if bias is not None:  # in the mean, and in the product too, where no factor is multiplied with it
                shift += bias.float() * (of_batch - 1)
        folded: Tensor = _FoldedWeight.apply(weight.movedim(axis, 0), self, seen.variance, of_batch)
        product = convolution(folded.movedim(0, axis))
        answer = normalised(product, shift, seen, self.norm.eps, self.norm.weight, self.norm.bias)
        self._await(lambda _output: answer, seen if seen.count > 1 else None)
        return made

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The weight to multiply with, ``Q(W * c) / c`` with running statistics, ``[outputs, ...]``."""
        return straight_through(x, lambda weight: self._quantised(weight, self._fold(weight)))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Centred integers of ``W``, 0 in dead channels, and their scale ``[outputs]``: ``scale(W * c) / |c|``."""
        fold = self._fold(x)
        factor = torch.where(fold.alive, fold.factor, 1.0)
        scale, zero = along_first(fold.scale, x.dim()), along_first(fold.zero, x.dim())
        levels = self._levels((x * along_first(fold.factor, x.dim())).div_(scale), zero)
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

    def _running_variance(self) -> Tensor:
        assert self.norm.running_var is not None
        return self.norm.running_var.float()

    def _factor(self, variance: Tensor) -> Tensor:
        factor = (variance + self.norm.eps).rsqrt()
        return factor if self.norm.weight is None else factor * self.norm.weight.detach().float()

    def _fold(self, x: Tensor) -> _Fold:
        factor = self._factor(self._running_variance())
        alive = factor.abs() > MIN_SCALE
        factor = torch.where(alive, factor, 0.0)
        if isinstance(self.inner, RistrettoQuantizer):
            scale = self.inner.step(x * along_first(factor, x.dim())).expand(len(x))
            return _Fold(factor, scale, torch.zeros_like(scale), alive)
        low, high = (end.reshape(-1) for end in extremes(x, 0))
        if self.inner.symmetric:
            high = torch.maximum(-low, high).mul_(factor.abs())
            low = -high
        else:
            one, other = low * factor, high * factor
            low, high = torch.minimum(one, other), torch.maximum(one, other)
        if at_hand(x):
            refuse_not_finite(low, high, self.name)
        if self.inner.channel_axis is None:
            low, high = low.amin().expand(len(x)), high.amax().expand(len(x))
        scale, zero = self.inner.grid(low, high)
        return _Fold(factor, scale, zero, alive)

    def _quantised(self, x: Tensor, fold: _Fold) -> Tensor:
        """``Q(W * c) / c``."""
        result = torch.empty_like(x)
        back = fold.scale / torch.where(fold.alive, fold.factor, 1.0)
        along = (along_first(each, x.dim()) for each in (fold.factor, fold.scale, fold.zero, back))
        for source, target, c, scale, zero, out in rows(x, result, *along):  # while they are in the cache
            own = _float_like(target)
            self._levels(torch.mul(source, c, out=own).div_(scale), zero).mul_(out)
            if own is not target:
                target.copy_(own)
        if not self.training:
            return result
        meant = fold.alive if self.inner.channel_axis is None else fold.alive & (fold.scale > MIN_SCALE)
        if not at_hand(x) or not bool(meant.all()):
            return torch.where(along_first(meant, x.dim()), result, x)
        return result

    def _came(self) -> bool:
        """Await no output any more; whether one was awaited."""
        awaited = bool(self._awaited)
        while self._awaited:
            self._awaited.pop().remove()
        return awaited

    def _await(self, answer: Callable[[Tensor], Tensor], seen: BatchStatistics | None = None) -> None:
        """Let ``answer`` replace the next output of the batch norm, and samples of ``seen`` its input."""

        def replace(_norm: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            self._came()
            return answer(output)

        self._came()
        self._awaited.append(self.norm.register_forward_hook(replace))
        if seen is not None:
            assert self.norm.running_var is not None
            samples = seen.samples(self.norm.running_var.dtype)
            self._awaited.append(self.norm.register_forward_pre_hook(lambda _norm, _inputs: (samples,)))

    def _levels(self, grid: Tensor, zero: Tensor) -> Tensor:
        """Centred integers of a folded weight that was divided by its scale, in its place."""
        grid.round_()
        if not self.inner.symmetric:
            return grid.add_(zero).clamp_(self.qmin, self.qmax).sub_(zero)
        return grid.clamp_(self.qmin, self.qmax)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._steps = 0 if self.steps.is_meta else int(self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_awaited": [], "_passes": 0, "_missed": 0}


class _FoldedWeight(torch.autograd.Function):
    """What multiplies the batch in :meth:`BatchNormFoldedWeight.outputs`; it stands for ``weight * of_batch``."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, quantizer: BatchNormFoldedWeight, variance: Tensor, of_batch: Tensor
    ) -> Tensor:
        fold, factor = quantizer._fold(weight), of_batch
        back = fold.scale
        if quantizer.folding == "correction":
            running = quantizer._running_variance()
            factor = quantizer._factor(running)
            back = back * ((running + quantizer.norm.eps) / (variance + quantizer.norm.eps)).sqrt()
        along = [along_first(each, weight.dim()) for each in (factor / fold.scale, fold.zero, back)]
        made = torch.empty_like(weight)
        for source, target, c, zero, out in rows(weight, made, *along):  # while they are in the cache
            own = _float_like(target)
            quantizer._levels(torch.mul(source, c, out=own), zero).mul_(out)
            if own is not target:
                target.copy_(own)
        ctx.save_for_backward(weight, *along[:2], along_first(of_batch, weight.dim()))
        ctx.clips = quantizer.folding == "batch"  # the range is that of the running fold
        ctx.centred, ctx.inside = quantizer.inner.symmetric, quantizer._ends
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, *along = ctx.saved_tensors
        grad, passed = gradient_buffer(grad, weight, weight.dtype, spent=True)
        for own, upstream, target, c, zero, of_batch in rows(weight, grad, passed, *along):
            g = torch.mul(upstream.float(), of_batch, out=_float_like(target))
            if ctx.clips:
                grid = own.float() * c
                pass_inside(g, grid if ctx.centred else grid.add_(zero), ctx.inside, out=g)
            if g.dtype != target.dtype:
                target.copy_(g)
        return passed, None, None, None


def _float_like(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32)
