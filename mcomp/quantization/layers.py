"""Layers whose weight is fake-quantised, in place of the layers of ``torch.nn``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import UsageError
from mcomp.quantization.by_hand import Written
from mcomp.quantization.config import OFF
from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.batch_norm_folded import BatchNormFoldedWeight
from mcomp.quantization.quantizers.xnor import XNORInputScale, scale_output
from mcomp.quantization.read_data import convolve_data, reads_data

M = TypeVar("M", bound=nn.Module)


class QuantizedLayer(QuantizedWeight):
    """What these layers share: a latent float ``weight`` and the quantiser it is read through.

    Each takes the place of its original in a network that is written by hand: the same arguments, and by keyword how
    to quantise. Conversion makes them too; there a graph holds the quantiser of the tensor that feeds the layer, and
    ``input_quantizer`` is None. Give ``a_bits=32`` for the same where the tensor is quantised already, behind a
    ``QuantReLU``, say. A layer of binary inputs may have an ``input_scale`` too, and then has both.

    A weight whose quantiser holds a range (LSQ) gets it from the first training batch or from
    :func:`mcomp.quantization.calibrate`, whichever comes first.

    Args:
        *args: of the original layer.
        weight_quantizer: of the weight; made from ``scheme`` and ``w_bits`` when left out.
        input_quantizer: of what the layer reads; made from ``scheme`` and ``a_bits`` when both are left out.
        scheme: see :mod:`mcomp.quantization.schemes`.
        a_scheme: of the tensor that the layer reads, where it is another.
        w_bits: of the weight, 32 for float; as the scheme has it when left out.
        a_bits: likewise of the tensor that the layer reads.
        signed_input: false where that tensor is never negative, which doubles its levels.
        levels: largest level of an unsigned 8-bit input.
        per_channel: one weight scale per output channel; as the scheme has it when left out.
        **kwargs: of the original layer, and options of the scheme.

    Raises:
        UsageError: the scheme does not exist or has no such bits or option.
    """

    weight: Any  # nn.Parameter; torch types it differently in convolutions and linear layers
    bias: Any
    input_quantizer: Quantizer | None
    input_scale: XNORInputScale | None
    reads_numbers: ClassVar[bool] = True  # not so an embedding, which reads indices

    def __init__(
        self,
        *args: Any,
        weight_quantizer: Quantizer | None = None,
        input_quantizer: Quantizer | None = None,
        scheme: str = "dorefa",
        a_scheme: str | None = None,
        w_bits: int | None = None,
        a_bits: int | None = None,
        signed_input: bool = True,
        levels: int = 255,
        per_channel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if not self.reads_numbers and a_bits not in (None, OFF):
            raise UsageError(f"{type(self).__name__} reads indices", code="MC427", hint="leave `a_bits` out")
        written, rest = Written.of(type(self), (scheme, a_scheme), (w_bits, a_bits), levels, per_channel, kwargs)
        super().__init__(*args, **rest)
        device = self.weight.device
        makes_input = self.reads_numbers and (weight_quantizer is None or a_bits is not None)
        if input_quantizer is None and makes_input:
            input_quantizer = written.activation(not signed_input)
        self.weight_quantizer = (weight_quantizer or written.weight()).to(device)
        self.register_module("input_quantizer", input_quantizer and input_quantizer.to(device))
        scalable = isinstance(self, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
        scaled = scalable and input_quantizer is not None and written.scales_inputs
        self.register_module("input_scale", XNORInputScale.of(self) if scaled else None)

    def quantized_weight(self) -> Tensor:
        """The weight that the layer multiplies with."""
        return self.read_weight(self.weight)

    def spent_weight(self) -> Tensor:
        """The same for the layer's own product, which makes the gradient of it for this one reader."""
        self.weight_quantizer.spent = True
        try:
            return self.read_weight(self.weight)
        finally:
            self.weight_quantizer.spent = False

    def quantized_input(self, x: Tensor) -> Tensor:
        """The tensor that the layer reads."""
        if self.input_quantizer is None:
            return x
        quantised: Tensor = self.input_quantizer(x)
        return quantised

    def integer_weight(self) -> IntegerWeight:
        """The weight as integers; ``values * scale`` equals :meth:`quantized_weight` bit for bit.

        Raises:
            StageError: the weight holds inf or nan, or is not quantised (32 bits).
        """
        return self.integers_of(self.weight)


class _QuantConv(QuantizedLayer):
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the quantised weight."""
        fold = self.weight_quantizer
        if isinstance(fold, BatchNormFoldedWeight) and fold.begin_step():
            read = self.quantized_input(input)
            return fold.outputs(self.weight, 0, self.bias, lambda weight: self._conv_forward(read, weight, self.bias))
        return convolve(self, input, self.spent_weight())


class QuantConv1d(_QuantConv, nn.Conv1d):
    """``nn.Conv1d`` with a quantised weight; every option of the original works."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """``nn.Conv2d`` with a quantised weight; every option of the original works."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """``nn.Conv3d`` with a quantised weight; every option of the original works."""


class _QuantConvTranspose(QuantizedLayer):
    """The weight is ``[in, out / groups, ...]``: a grid belongs to the output channels at one place of all groups.

    A runtime's scales lie along one axis of the weight, and output channels of several groups along none.
    """

    channel_axis = 1

    def integer_weight(self) -> IntegerWeight:
        """As of any layer; where groups share scales it says so."""
        found, groups = super().integer_weight(), int(getattr(self, "groups", 1))
        if groups == 1 or found.scale.numel() == 1 < found.values.shape[1]:
            return found
        return replace(found, why=f"{found.why}, scales shared by its {groups} groups")

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution with the quantised weight."""
        read = self.quantized_input(input)
        fold = self.weight_quantizer
        if isinstance(fold, BatchNormFoldedWeight) and fold.begin_step():
            return fold.outputs(
                self.weight, 1, self.bias, lambda weight: conv_transpose(self, read, weight, output_size)
            )
        return conv_transpose(self, read, self.spent_weight(), output_size)


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a quantised weight."""


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a quantised weight."""


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a quantised weight."""


class QuantLinear(QuantizedLayer, nn.Linear):
    """``nn.Linear`` with a quantised weight."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the quantised weight."""
        return linear(self, input, self.spent_weight())


class QuantBilinear(QuantizedLayer, nn.Bilinear):
    """``nn.Bilinear`` with a quantised weight."""

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """The form of both inputs with the quantised weight."""
        left, right = self.quantized_input(input1), self.quantized_input(input2)
        return F.bilinear(left, right, self.spent_weight(), self.bias)


class QuantEmbedding(QuantizedLayer, nn.Embedding):
    """``nn.Embedding`` with a quantised table, one grid per row or one for all; its gradient is dense."""

    bias = None
    reads_numbers = False

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the quantised table."""
        if self.max_norm is not None:  # written into the latent table, as torch does
            F.embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type)
        table = self.spent_weight()
        return F.embedding(input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)


class QuantEmbeddingBag(QuantizedLayer, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` with a quantised table; its gradient is dense."""

    bias = None
    reads_numbers = False

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sums, means or maxima of rows of the quantised table."""
        if self.max_norm is not None:  # written into the latent table, as torch does
            F.embedding(input, self.weight, None, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            self.spent_weight(),
            offsets,
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )


QUANTIZED: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Linear: QuantLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: QuantLinear,
    nn.Bilinear: QuantBilinear,
    nn.Embedding: QuantEmbedding,
    nn.EmbeddingBag: QuantEmbeddingBag,
}


def convolve(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of ``layer`` with a weight of its own: what it reads is quantised, scaled where that is asked."""
    if layer.input_scale is None:
        read = _read(layer, x)
        if reads_data(layer, read, weight):
            return convolve_data(layer, read, weight)
        output: Tensor = layer._conv_forward(read, weight, layer.bias)
        return output
    output = layer._conv_forward(_read(layer, x), weight, None)
    return scale_output(output, layer.input_scale(x), layer.bias, weight.dim() - 2)


def linear(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The same for a linear layer."""
    if layer.input_scale is None:
        return F.linear(_read(layer, x), weight, layer.bias)
    return scale_output(F.linear(_read(layer, x), weight), layer.input_scale(x), layer.bias, 0)


def _read(layer: Any, x: Tensor) -> Tensor:
    read: Tensor = x if layer.input_quantizer is None else layer.input_quantizer(x)
    return read


def conv_transpose(layer: Any, x: Tensor, weight: Tensor, output_size: list[int] | None) -> Tensor:
    """The transposed convolution with the options of ``layer`` and a weight of its own."""
    dims = weight.dim() - 2
    extra = layer._output_padding(x, output_size, layer.stride, layer.padding, layer.kernel_size, dims, layer.dilation)
    operation: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    output: Tensor = operation(x, weight, layer.bias, layer.stride, layer.padding, extra, layer.groups, layer.dilation)
    return output


def twin(layer: nn.Module, kind: type[M]) -> M:
    """A module of class ``kind`` with everything that ``layer`` holds: options, parameters (shared), hooks, mode."""
    made = kind.__new__(kind)
    held = {name: copy.copy(value) if isinstance(value, (dict, list)) else value for name, value in vars(layer).items()}
    made.__dict__.update(held)
    made.__dict__.pop("_kept", None)  # a weight that was kept is not this one's
    return made


def quantized_like(
    layer: nn.Module,
    weight_quantizer: Quantizer,
    input_quantizer: Quantizer | None = None,
    input_scale: XNORInputScale | None = None,
) -> QuantizedLayer:
    """A quantised layer that shares the parameters of ``layer``."""
    made = twin(layer, QUANTIZED[type(layer)])
    made.weight_quantizer = weight_quantizer.train(layer.training)
    made.register_module("input_quantizer", input_quantizer)
    made.register_module("input_scale", input_scale)
    made.initialise(made.weight)
    return made
