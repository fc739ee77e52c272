"""Which layers have a binary weight and a binary input, and what counts bits in their place."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from mcomp.deploy.xnor.extension import InstructionPath
from mcomp.deploy.xnor.filters import binary_filters
from mcomp.deploy.xnor.layers import XnorConv1d, XnorConv2d, XnorLayer, XnorLinear
from mcomp.quantization.config import OFF
from mcomp.quantization.dataflow import source
from mcomp.quantization.folded import FoldedLayer, FoldedQuantConv1d, FoldedQuantConv2d, FoldedQuantLinear
from mcomp.quantization.layers import QuantConv1d, QuantConv2d, QuantizedLayer, QuantLinear
from mcomp.quantization.quantizers.binary import BinaryActivation, BinaryCodes

_COUNTING: dict[type[nn.Module], type[XnorLayer]] = {
    QuantConv1d: XnorConv1d,
    QuantConv2d: XnorConv2d,
    QuantLinear: XnorLinear,
    FoldedQuantConv1d: XnorConv1d,
    FoldedQuantConv2d: XnorConv2d,
    FoldedQuantLinear: XnorLinear,
}


def counting_layer(layer: nn.Module, graph: fx.GraphModule | None, path: InstructionPath) -> XnorLayer | str:
    """The layer that counts bits in place of ``layer``, or why there is none.

    Args:
        layer: a module of ``graph``, or of a model without one, where only its own quantiser tells what it reads.
        graph: shows what makes its input.
        path: which loops to take.

    Raises:
        StageError: the weight holds inf or nan.
    """
    if not isinstance(layer, (QuantizedLayer, FoldedLayer)):
        return "it is a float layer"
    kind = _COUNTING.get(type(layer))
    if kind is None:
        return f"there are no loops for `{type(layer).__name__}`"
    if isinstance(layer, QuantizedLayer) and layer.weight_quantizer.bits == OFF:
        return "its weight is float"
    codes, why = _input_codes(layer, graph)
    if codes is None:
        return f"its input is not binary ({why})"
    filters = binary_filters(layer)
    if isinstance(filters, str):
        return filters
    return kind(layer, filters, codes, layer.input_quantizer is None, path).eval()


def _input_codes(layer: Any, graph: fx.GraphModule | None) -> tuple[BinaryCodes | None, str]:
    """The codes of what the layer reads, or why it has none."""
    quantiser = layer.input_quantizer
    if quantiser is not None:
        return _codes(quantiser), f"it is quantised by `{type(quantiser).__name__}`"
    if graph is None:
        return None, "the model has no graph that shows what makes it"
    modules = dict(graph.named_modules(remove_duplicate=False))
    found: set[BinaryCodes | None] = set()
    why = "nothing calls the layer"
    for node in graph.graph.nodes:
        if node.op == "call_module" and modules[str(node.target)] is layer:
            maker = source(node.all_input_nodes[0], modules)
            found.add(_codes(modules[str(maker.target)]) if maker.op == "call_module" else None)
            why = f"it comes from `{maker.name}`"
    return (found.pop() if len(found) == 1 else None), why


def _codes(module: nn.Module) -> BinaryCodes | None:
    if not isinstance(module, BinaryActivation) or module.bits != 1:
        return None
    return "pm1" if module.qmin < 0 else "01"
