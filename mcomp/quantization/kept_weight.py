"""A weight that is computed from others, and kept until they change."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.quantizers.base import Quantizer

K = TypeVar("K", bound="KeptWeight")


class KeptWeight(nn.Module):
    """Base of layers that derive the weight they multiply with; the kept one is no part of their state."""

    _kept: tuple[Any, Tensor] | None = None

    def kept_weight(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """The weight of ``key``, made without a gradient when another key was asked for last."""
        if self._kept is None or self._kept[0] != key:
            # an inference tensor kept here would break a later backward pass
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (key, make())
        return self._kept[1]

    def train(self: K, mode: bool = True) -> K:
        """Switch between training and eval, and forget the kept weight."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_kept", None)
        return state


class QuantizedWeight(KeptWeight):
    """Base of modules that read one weight through a quantiser.

    In eval mode, where no gradient is asked for, the quantised weight is kept until the weight
    changes (seen by its version counter; ``train()`` drops it too, for edits through ``.data``).
    A weight that one forward pass reads more than once is quantised once, until a backward pass went through it.

    Attributes:
        weight_quantizer: sees the weight with its output channels first.
        channel_axis: where the weight has its output channels.
        read_often: whether one forward pass reads the weight more than once.
    """

    weight_quantizer: Quantizer
    channel_axis: int = 0
    read_often: bool = False

    def read_weight(self, weight: Tensor) -> Tensor:
        """The quantised weight, in the shape of ``weight``."""
        trains = weight.requires_grad or any(own.requires_grad for own in self.weight_quantizer.parameters())
        graded = torch.is_grad_enabled() and trains
        if torch.compiler.is_compiling():  # what is read twice is computed once in a compiled graph anyway
            return self._quantize(weight)
        if weight.is_inference() or ((self.training or graded) and not (graded and self.read_often)):
            return self._quantize(weight)
        key = (weight.data_ptr(), weight._version, weight.device, weight.dtype, *self.weight_quantizer.state_key())
        if graded:
            return self._once(weight, (*key, id(weight), self.weight_quantizer.spent))
        return self.kept_weight(key, lambda: self._quantize(weight.detach()))

    def initialise(self, weight: Tensor) -> None:
        """Set the range of a quantiser that holds one, from the weight."""
        self.weight_quantizer.initialise(weight.detach().movedim(self.channel_axis, 0))

    def integers_of(self, weight: Tensor) -> IntegerWeight:
        """The weight as integers; ``values * scale`` along ``axis`` equals what is multiplied with, bit for bit.

        Raises:
            StageError: the weight holds inf or nan, or is not quantised (32 bits).
        """
        axis = self.channel_axis
        if axis == 0:
            return self.weight_quantizer.integer(weight)
        found = self.weight_quantizer.integer(weight.movedim(axis, 0))
        return replace(found, values=found.values.movedim(0, axis), axis=axis)

    def _quantize(self, weight: Tensor) -> Tensor:
        axis = self.channel_axis
        if axis == 0:
            quantised: Tensor = self.weight_quantizer(weight)
            return quantised
        quantised = self.weight_quantizer(weight.movedim(axis, 0))
        return quantised.movedim(0, axis)

    def _once(self, weight: Tensor, key: tuple[Any, ...]) -> Tensor:
        """Quantised with a gradient, and kept until a backward pass has come through."""
        if self._kept is None or self._kept[0] != key:
            quantised = self._quantize(weight)
            shared: Tensor = _Shared.apply((quantised,), weight, *self.weight_quantizer.parameters())
            mine = weakref.ref(self)

            def forget(_gradient: Tensor) -> None:
                owner = mine()
                if owner is not None:
                    owner._kept = None

            shared.register_hook(forget)  # type: ignore[no-untyped-call]
            self._kept = (key, shared)
        return self._kept[1]


class _Shared(torch.autograd.Function):
    """A quantised weight that several backward passes may come through: what its own needs is not freed by the first.

    So two forward passes, of the halves of a Siamese network, say, may read it before either is differentiated.
    """

    @staticmethod
    def forward(ctx: Any, held: tuple[Tensor], *sources: Tensor) -> Tensor:
        (quantised,) = held
        ctx.quantised, ctx.sources = quantised, sources  # not saved for backward: those are freed
        return quantised.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        graded = [source for source in ctx.sources if source.requires_grad]
        create = torch.is_grad_enabled()
        found = iter(
            torch.autograd.grad(ctx.quantised, graded, grad, retain_graph=True, create_graph=create, allow_unused=True)
        )
        return None, *(next(found) if source.requires_grad else None for source in ctx.sources)


class QuantizedParameter(QuantizedWeight):
    """A parameter that a function or a composite layer reads; it stays where it is, under its own name.

    Args:
        weight_quantizer: see :class:`QuantizedWeight`.
        parameter: the parameter's name, seen from the module that owns both.
        home: this module's name, seen from there.
        channel_axis: where the parameter has its output channels.
    """

    def __init__(self, weight_quantizer: Quantizer, parameter: str, home: str, channel_axis: int = 0) -> None:
        super().__init__()
        self.weight_quantizer = weight_quantizer
        self.parameter = parameter
        self.home = home
        self.channel_axis = channel_axis

    def forward(self, weight: Tensor) -> Tensor:
        """The quantised parameter."""
        return self.read_weight(weight)
