"""Quantisers and quantised layers as one configuration asks for them."""

from __future__ import annotations

import torch
from torch import nn

from mcomp.quantization.attention import quantized_attention
from mcomp.quantization.config import OFF, QuantizeConfig, find_scheme
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layers import quantized_like
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.recurrent import quantized_recurrent


class QuantizerFactory:
    """Makes fresh quantisers for a model, on its device.

    Args:
        config: the scheme and its options.
        model: whose device and mode the quantisers take.
    """

    def __init__(self, config: QuantizeConfig, model: nn.Module) -> None:
        self.config = config
        self.scheme = find_scheme(config.scheme)
        self.training = model.training
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def weight(self, bits: int, *, per_channel: bool = True) -> Quantizer:
        """A quantiser of a weight; ``per_channel`` false where the weight has no channels."""
        made = self.scheme.weight(bits, per_channel and self.config.per_channel, self.config.options)
        return made.to(self.device)

    def activation(self, bits: int, nonnegative: bool) -> Quantizer:
        """A quantiser of an activation."""
        levels = self.config.levels if bits == 8 else None
        made = self.scheme.activation(bits, nonnegative, levels, self.config.options)
        return made.to(self.device).train(self.training)

    def layer(
        self, name: str, layer: nn.Module, w_bits: int, a_bits: int, *, own_inputs: bool = False
    ) -> nn.Module | None:
        """The quantised layer that takes the place of ``layer``, or None where nothing in it changes.

        ``own_inputs`` gives it quantisers of its inputs, where no graph holds them.
        """
        reads = own_inputs and a_bits != OFF and not isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
        read = self.activation(a_bits, False) if reads else None
        if isinstance(layer, nn.MultiheadAttention):
            return quantized_attention(
                layer,
                lambda: None if w_bits == OFF else self.weight(w_bits),
                lambda nonnegative: nn.Identity() if a_bits == OFF else self.activation(a_bits, nonnegative),
                read,
            )
        if w_bits == OFF:
            return None
        if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            return quantized_recurrent(layer, lambda: self.weight(w_bits), read)
        return quantized_like(layer, self.weight(w_bits), read)


def name_quantizers(model: nn.Module) -> None:
    """Tell every quantiser its place in the model, for messages."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.name = module.name or name
        if isinstance(module, QuantizedWeight):
            module.weight_quantizer.name = f"{name}.weight"
