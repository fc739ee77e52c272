"""Layers whose weight is fake-quantised, in place of the layers of ``torch.nn``."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.quantizers.base import Quantizer

M = TypeVar("M", bound=nn.Module)


class QuantizedLayer(QuantizedWeight):
    """What these layers share: a latent float ``weight`` and the quantiser it is read through.

    Where no graph holds the quantiser of the tensor that feeds the layer, the layer has one of its own,
    ``input_quantizer``, else None.
    """

    weight: Any  # nn.Parameter; torch types it differently in convolutions and linear layers
    bias: Any
    input_quantizer: Quantizer | None

    def __init__(
        self, *args: Any, weight_quantizer: Quantizer, input_quantizer: Quantizer | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_quantizer = weight_quantizer
        weight_quantizer.spent = True
        self.register_module("input_quantizer", input_quantizer)

    def quantized_weight(self) -> Tensor:
        """The weight that the layer multiplies with."""
        return self.read_weight(self.weight)

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
    def forward(self, input: Tensor) -> Tensor:
        """The convolution with the quantised weight."""
        convolve: Any = self._conv_forward
        output: Tensor = convolve(self.quantized_input(input), self.quantized_weight(), self.bias)
        return output


class QuantConv1d(_QuantConv, nn.Conv1d):
    """``nn.Conv1d`` with a quantised weight; every option of the original works."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """``nn.Conv2d`` with a quantised weight; every option of the original works."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """``nn.Conv3d`` with a quantised weight; every option of the original works."""


class _QuantConvTranspose(QuantizedLayer):
    """The weight is ``[in, out / groups, ...]``: a grid belongs to an output channel of all groups."""

    channel_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution with the quantised weight."""
        return conv_transpose(self, self.quantized_input(input), self.quantized_weight(), output_size)


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
        return F.linear(self.quantized_input(input), self.quantized_weight(), self.bias)


class QuantBilinear(QuantizedLayer, nn.Bilinear):
    """``nn.Bilinear`` with a quantised weight."""

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """The form of both inputs with the quantised weight."""
        left, right = self.quantized_input(input1), self.quantized_input(input2)
        return F.bilinear(left, right, self.quantized_weight(), self.bias)


class QuantEmbedding(QuantizedLayer, nn.Embedding):
    """``nn.Embedding`` with a quantised table, one grid per row or one for all; its gradient is dense."""

    bias = None

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the quantised table."""
        if self.max_norm is not None:  # written into the latent table, as torch does
            F.embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type)
        table = self.quantized_weight()
        return F.embedding(input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)


class QuantEmbeddingBag(QuantizedLayer, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` with a quantised table; its gradient is dense."""

    bias = None

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sums, means or maxima of rows of the quantised table."""
        if self.max_norm is not None:  # written into the latent table, as torch does
            F.embedding(input, self.weight, None, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            self.quantized_weight(),
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
    layer: nn.Module, weight_quantizer: Quantizer, input_quantizer: Quantizer | None = None
) -> QuantizedLayer:
    """A quantised layer that shares the parameters of ``layer``."""
    made = twin(layer, QUANTIZED[type(layer)])
    made.weight_quantizer = weight_quantizer.train(layer.training)
    weight_quantizer.spent = True
    made.register_module("input_quantizer", input_quantizer)
    made.initialise(made.weight)
    return made
