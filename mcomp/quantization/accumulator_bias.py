"""Biases as an integer engine adds them: whole numbers in units of its accumulator.

An integer convolution sums products of integers, one step of which is worth ``input scale * weight scale``; its bias
is an int32 in that unit (Jacob et al., arXiv:1712.05877, section 2.4). Rounded to it in the simulation, the bias that
ships is the one that was measured. Weights of few bits are stored as multiples of what they are, in a smaller unit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mcomp.quantization.dataflow import source
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.tracing import TracedModel

#: Beyond this the rounding of a float32 is coarser than the unit.
_WHOLE = 2.0**24
INT8_MAX = 127
_RELUS = (F.relu, F.relu6, torch.relu, "relu", "relu_")


def spread(peak: Tensor) -> Tensor:
    """The largest power of two that integers up to ``peak``, per channel, can be multiplied with and still fit int8.

    A runtime's accumulator is as much finer as the scale of such weights is smaller.
    """
    return torch.exp2(torch.floor(torch.log2(INT8_MAX / peak.double().clamp(min=1))).clamp(min=0))


def round_biases(model: nn.Module) -> float:
    """Round the biases of folded layers to their accumulator's unit, in place; the largest change.

    Those that a runtime adds as integers, that is: of linear layers, and of convolutions whose output is rounded to a
    grid of integers at once. Layers that are called with several inputs keep theirs, as do channels without weights,
    whose unit is free. A model without a graph is left as it is.
    """
    if not isinstance(model, TracedModel):
        return 0.0
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    calls: dict[int, list[fx.Node]] = {}
    for node in model.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, FoldedLayer) and layer.bias is not None and layer.channel_axis == 0:
            calls.setdefault(id(layer), []).append(node)
    changes = [_round(nodes[0], modules) for nodes in calls.values() if len(nodes) == 1]
    return max(changes, default=0.0)


def _round(call: fx.Node, modules: dict[str, nn.Module]) -> float:
    layer: Any = modules[str(call.target)]
    scale = _input_scale(call, layer, modules)
    if scale is None or not (layer.weight_int.dim() == 2 or _ends_in_integers(call, modules)):
        return 0.0
    bias = layer.bias.detach().clone()
    peak = layer.weight_int.flatten(1).double().abs().amax(1)
    unit = scale * layer.weight_scale.double() / spread(peak)
    whole = torch.round(bias.double() / unit)
    alive = layer.weight_int.flatten(1).ne(0).any(1)
    rounded = torch.where(alive & (whole.abs() < _WHOLE), whole * unit, bias.double()).to(bias.dtype)
    with torch.no_grad():
        layer.bias.copy_(rounded)
    return float((rounded - bias).abs().max()) if bias.numel() else 0.0


def _ends_in_integers(call: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether one quantiser reads what a layer makes, behind ReLUs at the most."""
    node = call
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Quantizer):
            return 1 < module.bits <= 8
        if not (isinstance(module, (nn.ReLU, nn.ReLU6, nn.Identity)) or node.target in _RELUS):
            return False
    return False


def _input_scale(call: fx.Node, layer: FoldedLayer, modules: dict[str, nn.Module]) -> float | None:
    """The scale of the tensor that the layer reads; None where it is float, or found anew for each tensor."""
    quantizer: Any = layer.input_quantizer
    if quantizer is None and call.all_input_nodes:
        origin = source(call.all_input_nodes[0], modules)
        quantizer = modules.get(str(origin.target)) if origin.op == "call_module" else None
    if not isinstance(quantizer, Quantizer) or quantizer.dynamic or not quantizer.ready or quantizer.bits > 8:
        return None
    scale = quantizer.qparams().scale
    return scale if isinstance(scale, float) else None
