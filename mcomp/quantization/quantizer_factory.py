"""Quantisers and quantised layers as one configuration asks for them."""

from __future__ import annotations

import torch
from torch import nn

from mcomp.quantization.attention import quantized_attention
from mcomp.quantization.config import QuantizeConfig
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layer_choice import Choice
from mcomp.quantization.layers import quantized_like
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.xnor import XNORInputScale
from mcomp.quantization.recurrent import quantized_recurrent
from mcomp.quantization.scheme_checks import find_scheme


class QuantizerFactory:
    """Makes fresh quantisers for a model, on its device.

    Args:
        config: whose ``levels`` unsigned 8-bit activations have.
        model: whose device and mode the quantisers take.
    """

    def __init__(self, config: QuantizeConfig, model: nn.Module) -> None:
        self.config = config
        self.training = model.training
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def weight(self, choice: Choice, *, per_channel: bool = True) -> Quantizer:
        """A quantiser of a weight; ``per_channel`` false where the weight has no channels."""
        make = find_scheme(choice.scheme).weight
        return make(choice.bits, per_channel and choice.per_channel, choice.options).to(self.device)

    def activation(self, choice: Choice, nonnegative: bool) -> Quantizer:
        """A quantiser of an activation."""
        levels = self.config.levels if choice.bits == 8 else None
        made = find_scheme(choice.scheme).activation(choice.bits, nonnegative, levels, choice.options)
        return made.to(self.device).train(self.training)

    def layer(
        self, layer: nn.Module, weights: Choice, activations: Choice, *, own_inputs: bool = False
    ) -> nn.Module | None:
        """The quantised layer that takes the place of ``layer``, or None where nothing in it changes.

        ``own_inputs`` gives it quantisers of its inputs, where no graph holds them.
        """
        scale = XNORInputScale.of(layer) if scales_inputs(layer, activations) else None
        reads = (own_inputs or scale is not None) and not activations.off
        reads = reads and not isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
        read = self.activation(activations, False) if reads else None
        if isinstance(layer, nn.MultiheadAttention):
            return quantized_attention(
                layer,
                lambda: None if weights.off else self.weight(weights),
                lambda nonnegative: nn.Identity() if activations.off else self.activation(activations, nonnegative),
                read,
            )
        if weights.off:
            return None
        if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            return quantized_recurrent(layer, lambda: self.weight(weights), read)
        return quantized_like(layer, self.weight(weights), read, scale)


def scales_inputs(layer: nn.Module, activations: Choice) -> bool:
    """Whether the layer's output is scaled by the size of what it read before that was made binary (XNOR-Net)."""
    scalable = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    return scalable and not activations.off and bool(activations.options.get("input_scale"))


def name_quantizers(model: nn.Module) -> None:
    """Tell every quantiser its place in the model, for messages."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.name = module.name or name
        if isinstance(module, QuantizedWeight):
            module.weight_quantizer.name = f"{name}.weight"
