"""Activation functions whose result is quantised, for networks that are written by hand.

Conversion needs none of these: there a graph says where a quantiser belongs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mcomp.quantization.by_hand import Written
from mcomp.quantization.quantizers.base import Quantizer


class QuantizedFunction(nn.Module):
    """Base: the function, then one quantiser that everything behind it shares.

    Layers that read the result need none of their own (``a_bits=32``). A scheme whose activation quantiser takes the
    place of the ReLU (``wbwtab``) leaves the function out.

    Args:
        *args: of the original.
        output_quantizer: made from ``scheme`` and ``a_bits`` when left out.
        scheme: see :mod:`mcomp.quantization.schemes`.
        a_bits: of the result, 32 for float; as the scheme has it when left out.
        levels: largest level where 8 bits are unsigned.
        **kwargs: of the original, and options of the scheme.

    Attributes:
        nonnegative: whether the result is never below 0.
        alone: whether the quantiser takes the function's place.

    Raises:
        UsageError: the scheme does not exist or has no such bits or option.
    """

    nonnegative: ClassVar[bool] = False
    output_quantizer: Any  # a Quantizer or None

    def __init__(
        self,
        *args: Any,
        output_quantizer: Quantizer | None = None,
        scheme: str = "dorefa",
        a_bits: int | None = None,
        levels: int = 255,
        **kwargs: Any,
    ) -> None:
        written, rest = Written.of(type(self), (scheme, None), (None, a_bits), levels, None, kwargs)
        super().__init__(*args, **rest)
        quantizer = output_quantizer or written.activation(self.nonnegative)
        self.register_module("output_quantizer", quantizer)
        self.alone = quantizer is not None and (
            quantizer.bits == 1 or (isinstance(self, nn.ReLU) and quantizer.take_relu())
        )

    def forward(self, input: Tensor) -> Tensor:
        """The function of ``input``, quantised."""
        result: Tensor = input if self.alone else super().forward(input)
        return result if self.output_quantizer is None else self.output_quantizer(result)


class QuantIdentity(QuantizedFunction, nn.Identity):
    """The tensor itself, quantised: for a sum, a concatenation, or the network's input."""


class QuantReLU(QuantizedFunction, nn.ReLU):
    """``nn.ReLU``, quantised without a sign."""

    nonnegative = True


class QuantReLU6(QuantizedFunction, nn.ReLU6):
    """``nn.ReLU6``, quantised without a sign."""

    nonnegative = True


class QuantSigmoid(QuantizedFunction, nn.Sigmoid):
    """``nn.Sigmoid``, quantised without a sign."""

    nonnegative = True


class QuantHardsigmoid(QuantizedFunction, nn.Hardsigmoid):
    """``nn.Hardsigmoid``, quantised without a sign."""

    nonnegative = True


class QuantTanh(QuantizedFunction, nn.Tanh):
    """``nn.Tanh``, quantised."""


class QuantLeakyReLU(QuantizedFunction, nn.LeakyReLU):
    """``nn.LeakyReLU``, quantised."""


class QuantPReLU(QuantizedFunction, nn.PReLU):
    """``nn.PReLU``, quantised."""


class QuantSiLU(QuantizedFunction, nn.SiLU):
    """``nn.SiLU``, quantised."""


class QuantGELU(QuantizedFunction, nn.GELU):
    """``nn.GELU``, quantised."""


class QuantHardswish(QuantizedFunction, nn.Hardswish):
    """``nn.Hardswish``, quantised."""
