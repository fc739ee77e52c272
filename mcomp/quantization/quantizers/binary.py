"""Binary weights and activations: Courbariaux et al., "BinaryNet" (arXiv:1602.02830), and Rastegari et al.,
"XNOR-Net" (arXiv:1603.05279).
"""  # noqa: D205  two papers take two lines

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.quantization.fake_quantize import masked
from mcomp.quantization.integers import MIN_SCALE, QParams, along_first
from mcomp.quantization.pieces import elementwise, matching, rows
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.weight import WeightQuantizer
from mcomp.quantization.scaled_signs import sum_per_filter, through_scale

Estimator = Literal["saturate_ste", "ste", "soft_ste"]
BinaryCodes = Literal["pm1", "01"]

_TILE = 32


class BinaryWeight(WeightQuantizer):
    """Fake-quantise a weight to ``{-a, +a}``, one ``a`` per output filter.

    ``W~ = clamp(W - mean over the input channels at each kernel position, -1, 1)``, ``a = mean|W~|`` of the filter, and
    the result is ``a * sign(W~)`` with ``sign(0) = +1``. The gradient is
    ``a * g + sign(W~) / n * sum(g * sign(W~))`` per filter of n weights, straight through centring and clamp. A filter
    with a single input channel (depthwise) is not centred: nothing would be left of it.

    Shape:
        ``(filters, inputs, ...)`` to the same shape; computed in float32.
    """

    scheme = "wbwtab"

    def __init__(self) -> None:
        super().__init__(2)
        self.bits = 1
        self.qmin, self.qmax = -1, 1

    @property
    def integer_bits(self) -> int:
        """Signed bits that -1 and +1 need."""
        return 2

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The binary weight, in the type of ``x``."""
        binary: Tensor = _Binarise.apply(x, self.spent)
        return binary

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and +1, or zeros where the whole filter is zero, and ``a`` per filter."""
        signs, scale = _by_filter(x.to(torch.float32), _signs_of)
        alive = scale > 0
        return signs.mul_(along_first(alive.to(signs.dtype), x.dim())), torch.where(alive, scale, MIN_SCALE)

    def why(self) -> str:
        """What the integers are, for the report."""
        return "binary: -1 and +1, one scale per filter"


class BinaryActivation(Quantizer):
    """The sign of an activation, in place of its ReLU: ``+1`` from 0 on, else ``-1`` (or 0); NaN stays NaN.

    Args:
        ste: the gradient: ``saturate_ste`` is ``g`` where ``|x| < 1``; ``ste`` is ``g``; ``soft_ste`` is
            ``g * max(0, 1 - |x|)``.
        codes: ``pm1`` for -1 and +1, ``01`` for 0 and 1.

    Shape:
        any, to the same shape, type and memory format.

    Raises:
        UsageError: there is no such estimator, or no such codes.
    """

    scheme = "wbwtab"

    def __init__(self, ste: Estimator = "saturate_ste", codes: BinaryCodes = "pm1") -> None:
        for what, given, offered in (("ste", ste, get_args(Estimator)), ("codes", codes, get_args(BinaryCodes))):
            if given not in offered:
                raise UsageError(f"`{what}` is {given!r}", code="MC427", hint=f"one of: {', '.join(offered)}")
        super().__init__(1, -1 if codes == "pm1" else 0, 1)
        self.ste = ste

    @property
    def dynamic(self) -> bool:
        """Whether the range comes from the tensor at hand; two values need none."""
        return False

    def fake_quantize(self, x: Tensor) -> Tensor:
        """The binary tensor."""
        if torch.is_grad_enabled() and x.requires_grad:
            binary: Tensor = _Sign.apply(x, self.qmin, self.ste)
            return binary
        return _sign(x, self.qmin)

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The grid that the codes lie on."""
        return QParams(1.0, 0, self.qmin, self.qmax)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes, which are the values."""
        return _sign(x, self.qmin), x.new_ones(1)

    def warp(self) -> nn.Module:
        """The comparison that makes the codes, which no grid's rounding is."""
        return _ExportedSign(self.qmin)

    def extra_repr(self) -> str:
        """Estimator and codes."""
        return f"ste={self.ste}, values={self.qmin} and {self.qmax}"


def _by_filter(weight: Tensor, write: Callable[[Tensor, Tensor], object]) -> tuple[Tensor, Tensor]:
    """What ``write(positive, scale)`` makes of a few filters at a time, in place, while they are in the cache.

    ``positive`` is 1 for the sign +1 and 0 for -1. Fake-quantised weight and integers both come from here, and so from
    sums of one order, to the last bit.

    Returns:
        What was written, like ``weight``, and the scale ``[filters]``; float32.
    """
    made = torch.empty_like(weight)
    scales = []
    for part, out in rows(weight, made):
        scale = _binarise(part, out)
        write(out, scale)
        scales.append(scale.flatten())
    return made, torch.cat(scales)


def _signs_of(positive: Tensor, _scale: Tensor) -> None:
    positive.mul_(2).sub_(1)


def _values_of(positive: Tensor, scale: Tensor) -> None:
    positive.mul_(2 * scale).sub_(scale)


def _binarise(weight: Tensor, out: Tensor) -> Tensor:
    """Write 1 for the sign +1 and 0 for -1 to ``out``; the scale, one per filter, in as many dimensions."""
    centred = _centre(weight, out) if weight.dim() > 1 and weight.shape[1] > 1 else out.copy_(weight)
    total = sum_per_filter(centred.clamp_(-1, 1))
    negative = centred.clamp_(max=0)  # in place throughout: a further tensor would have to be fetched
    scale = total.sub_(sum_per_filter(negative), alpha=2).div_(max(math.prod(weight.shape[1:]), 1))
    negative.ge_(0.0)  # a comparison, which unlike sign() has two answers
    return scale


def _centre(weight: Tensor, out: Tensor) -> Tensor:
    """Write ``weight`` less its mean over the inputs at each kernel position."""
    mean = weight.mean(1, keepdim=True)
    inputs, positions = weight.shape[1], math.prod(weight.shape[2:])
    tile = math.gcd(inputs, _TILE)
    if not (weight.is_contiguous() and out.is_contiguous()) or tile == 1 or positions == 1:
        return torch.sub(weight, mean, out=out)
    # a kernel's few positions are too short a row to subtract fast: some inputs' at once
    shape = (len(weight), inputs // tile, tile * positions)
    tiled = mean.view(-1, 1, 1, positions).expand(-1, 1, tile, -1).reshape(-1, 1, tile * positions)
    torch.sub(weight.view(shape), tiled, out=out.view(shape))
    return out


def _signs(codes: Tensor) -> Tensor:
    return torch.ge(codes, 0.0, out=torch.empty_like(codes)).mul_(2).sub_(1)


class _Binarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, spent: bool) -> Tensor:
        ctx.spent = spent
        made, scale = _by_filter(weight.to(torch.float32), _values_of)
        binary = made.to(weight.dtype)
        ctx.save_for_backward(binary, scale)
        return binary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        binary, scale = ctx.saved_tensors
        count = torch.full_like(scale, math.prod(binary.shape[1:]))
        return through_scale(grad, binary, scale, count, _signs, ctx.spent), None


def _sign(x: Tensor, qmin: int) -> Tensor:
    return elementwise(x, lambda source, result: _compare(source, result, qmin))


def _compare(source: Tensor, result: Tensor, qmin: int) -> None:
    """1 from 0 on, else ``qmin``, and NaN for NaN, which no comparison would pass on.

    ``1 + x * h`` for a factor so large that every negative number ends below -1.
    """
    largest = torch.finfo(source.dtype).max
    one = torch.ones((), dtype=source.dtype, device=source.device)
    torch.mul(source, largest, out=result)  # twice: once would not lift the smallest subnormal numbers
    torch.add(one, result, alpha=largest, out=result).clamp_(qmin, 1)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, qmin: int, ste: Estimator) -> Tensor:
        ctx.ste = ste
        if ste == "soft_ste":
            ctx.save_for_backward(x)
        if ste != "saturate_ste":
            return _sign(x, qmin)
        binary, mask = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)
        for source, target, inside in matching(x, binary, mask):
            inside.copy_(torch.abs(source, out=target).lt_(1.0))  # to floats first: it is faster
            _compare(source, target, qmin)
        ctx.save_for_backward(mask)
        return binary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if ctx.ste == "ste":
            return grad, None, None
        (x,) = ctx.saved_tensors
        if ctx.ste == "saturate_ste":
            return masked(grad, x), None, None
        return x.abs().neg_().add_(1).clamp_(min=0).mul_(grad), None, None


class _ExportedSign(nn.Module):
    """The codes in operations that every exporter knows."""

    def __init__(self, qmin: int) -> None:
        super().__init__()
        self.qmin = qmin

    def forward(self, x: Tensor) -> Tensor:
        """1 from 0 on, else ``qmin``."""
        return torch.where(x >= 0, 1.0, float(self.qmin))
