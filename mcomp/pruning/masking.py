"""Run a network as if some of its channels were not there.

Every op that sums over channels gets zeros for those that are masked, normalisation takes its statistics over the
others, and attention keeps its scale: what the pruned network has to compute, by the code and weights of the whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.pruning.channel_surgery import Cut, restored
from mcomp.pruning.labels import SETTLED, LabelSpace, Role, Site, narrowed
from mcomp.pruning.passes import plain_operators
from mcomp.pruning.position_rules import SUMS
from mcomp.pruning.tracing import Trace, Tracer

#: In place of labels: the channel stays, or is masked.
_STAYS, _MASKED = SETTLED + 1, SETTLED + 2

_CONVOLUTIONS = ("convolution",)
_LINEAR = ("mm", "addmm", "bmm", "baddbmm")


class _Flags(LabelSpace):
    """Nothing has to be told apart: whatever no cut speaks of stays."""

    def fresh(self, count: int) -> Tensor:
        return torch.full((count,), _STAYS)

    def fix(self, labels: Tensor, reason: str) -> None:
        pass

    def couple(self, a: Tensor, b: Tensor) -> None:
        pass


class Masking(Tracer):  # type: ignore[no-untyped-call]
    """Runs ops with the channels that ``cuts`` do not keep masked.

    Args:
        model: the whole network.
        cuts: what is going to be cut out of it.
        trace: that led to the cuts.
    """

    def __init__(self, model: nn.Module, cuts: Sequence[Cut], trace: Trace) -> None:
        super().__init__(model, trace, trace.heads)
        self.space = _Flags()
        self._kept = {(cut.parameter, cut.role, cut.axis): cut for cut in cuts}
        self._values_cut = {cut.parameter: cut for cut in cuts if cut.role == "values"}

    def site(self, name: str, role: Role, axis: int, slots: int, groups: int) -> Site:
        """Its labels say which slots stay."""
        return Site(name, role, axis, self._flags(self._kept.get((name, role, axis)), slots), groups, 0)

    def reads(self, name: str, role: Role, axis: int, incoming: Tensor, groups: int) -> Site:
        """What comes in says itself what stays."""
        return Site(name, role, axis, incoming, groups, 0)

    def holds(self, vectors: Sequence[Any], channels: Tensor) -> None:
        """Nothing: the values of masked channels are masked with them."""

    def fresh_values(self, name: str, tensor: Tensor, shape: list[int]) -> Tensor:
        """Which elements of a parameter stay."""
        cut = self._values_cut.get(name)
        if cut is None:
            return torch.full([1] * tensor.ndim, _STAYS).expand(tensor.shape)
        flags = self._flags(cut, tensor.shape[cut.axis])
        return flags.reshape([-1 if dim == cut.axis else 1 for dim in range(tensor.ndim)]).expand(tensor.shape)

    def _flags(self, cut: Cut | None, slots: int) -> Tensor:
        flags = torch.full((slots,), _STAYS if cut is None else _MASKED)
        if cut is not None:
            flags[cut.indices] = _STAYS
        return flags

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The op, its operands masked where it sums over channels."""
        name = func.overloadpacket.__name__
        if name in _CONVOLUTIONS or name in SUMS:
            args = (self._masked(args[0]), *args[1:])
        elif name in _LINEAR:
            args = tuple(arg if place < len(args) - 2 else self._masked(arg) for place, arg in enumerate(args))
        elif name in _OVER_KEPT:
            flags = self.labels_of(args[0])
            if bool((narrowed(flags) == _MASKED).any()):
                return _OVER_KEPT[name](args, kwargs, (flags != _MASKED).to(args[0].dtype))
        return super().compute(func, args, kwargs)

    def _masked(self, tensor: Tensor) -> Tensor:
        if self.weight(tensor) is not None:
            return tensor
        flags = narrowed(self.labels_of(tensor))
        masked = flags == _MASKED
        return tensor.masked_fill(masked, 0) if bool(masked.any()) else tensor


def _layer_norm(args: Sequence[Any], _options: dict[str, Any], stays: Tensor) -> tuple[Tensor, ...]:
    x, shape, weight, bias, eps = args
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    mean, variance = _moments(x, stays, dims)
    scale = (variance + eps).rsqrt()
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, scale


def _rms_norm(args: Sequence[Any], _options: dict[str, Any], stays: Tensor) -> tuple[Tensor, ...]:
    x, shape, weight, eps = args
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    square = (x.square() * stays).sum(dims, keepdim=True) / _some(stays.sum(dims, keepdim=True))
    scale = (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()
    out = x * scale
    return (out if weight is None else out * weight), scale


def _group_norm(args: Sequence[Any], _options: dict[str, Any], stays: Tensor) -> tuple[Tensor, ...]:
    x, weight, bias, count, channels, _positions, groups, eps = args
    parts = x.reshape(count, groups, -1)
    mean, variance = _moments(parts, stays.reshape(parts.shape), (2,))
    scale = (variance + eps).rsqrt()
    out = ((parts - mean) * scale).reshape(x.shape)
    per_channel = [1, channels, *[1] * (x.ndim - 2)]
    out = out if weight is None else out * weight.reshape(per_channel)
    return (out if bias is None else out + bias.reshape(per_channel)), mean[..., 0], scale[..., 0]


def _statistics(args: Sequence[Any], options: dict[str, Any], stays: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean, by the arguments of ``torch.var_mean``."""
    x, options = args[0], dict(zip(("dim", "keepdim"), args[1:], strict=False)) | options
    given = options.get("dim")
    dims = tuple(range(x.ndim)) if given is None else (given,) if isinstance(given, int) else tuple(given)
    correction = options.get("correction", 1)
    mean, variance = _moments(x, stays, dims, 1 if correction is None else correction)
    if not options.get("keepdim", False):
        mean, variance = mean.mean(dims), variance.mean(dims)  # of one element each
    return variance, mean


def _moments(x: Tensor, stays: Tensor, dims: tuple[int, ...], correction: float = 0) -> tuple[Tensor, Tensor]:
    count = stays.sum(dims, keepdim=True)
    mean = (x * stays).sum(dims, keepdim=True) / _some(count)
    return mean, ((x - mean).square() * stays).sum(dims, keepdim=True) / _some(count - correction)


def _some(count: Tensor) -> Tensor:
    """At least one: where nothing stays, as over the positions of a masked channel, the sum is 0 and no NaN."""
    return count.clamp(min=1)


#: Ops that take statistics, over the channels that stay: by their arguments and options, and by what stays.
_OVER_KEPT: dict[str, Callable[[Sequence[Any], dict[str, Any], Tensor], Any]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "var_mean": _statistics,
    "var": lambda *given: _statistics(*given)[0],
    "std": lambda *given: _statistics(*given)[0].sqrt(),
    "mean": lambda *given: _statistics(*given)[1],
}


def run_masked(model: nn.Module, cuts: Sequence[Cut], inputs: tuple[Tensor, ...], trace: Trace) -> Any:
    """The outputs of ``model`` with the channels that ``cuts`` leave out masked.

    Args:
        model: the whole network.
        cuts: what is going to be cut out of it.
        inputs: for it.
        trace: that led to the cuts.
    """
    masking = Masking(model, cuts, trace)
    masking.enter(inputs)
    try:
        with restored(model), torch.no_grad(), plain_operators(), masking:
            return model(*inputs)
    finally:
        masking.forget()
