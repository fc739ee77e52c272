"""Q/DQ pairs of int8 repeated behind operations that move data, for ONNX Runtime on x86 in opset 21 and newer.

It repeats them itself, with the type as an attribute, which these opsets have; then it turns int8 to uint8, all but
that attribute, and refuses the graph that it made (seen in 1.31). A pair that is there already it leaves alone, and a
second pair changes no value.
"""

from __future__ import annotations

import numpy as np
import onnx

from mcomp.deploy.onnx_graph import OnnxGraph

#: The opset whose quantisers have their type as an attribute.
TYPED_OPSET = 21
#: What ONNX Runtime moves pairs through.
_MOVED_THROUGH = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten"})


def repeat_pairs(graph: OnnxGraph) -> None:
    """Put the pair of every int8 activation behind each such operation that reads it, and so on behind that, in place.

    Args:
        graph: with its Q/DQ nodes.
    """
    waiting = [node for node in graph.nodes if node.op_type == "DequantizeLinear" and _of_int8_activation(graph, node)]
    while waiting:
        pair = waiting.pop()
        for reader in graph.consumers(pair.output[0]):
            if reader.op_type not in _MOVED_THROUGH or reader.input[0] != pair.output[0]:
                continue
            readers = graph.consumers(reader.output[0])
            if reader.output[0] in graph.outputs or any(node.op_type != "QuantizeLinear" for node in readers):
                waiting.append(_repeated(graph, pair, reader))


def _of_int8_activation(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    zero_point = graph.array(node.input[2]) if len(node.input) > 2 else None
    of_layer = graph.array(node.input[0]) is None
    return of_layer and zero_point is not None and zero_point.dtype == np.int8 and zero_point.ndim == 0


def _repeated(graph: OnnxGraph, pair: onnx.NodeProto, mover: onnx.NodeProto) -> onnx.NodeProto:
    """The second half of the pair that all who read what ``mover`` makes now read it through."""
    output = mover.output[0]
    readers = [node for node in graph.consumers(output) if node.op_type != "QuantizeLinear"]
    name = graph.unique(f"{output}_again")
    if output in graph.outputs:  # which keeps its name
        unpacked, mover.output[0] = output, f"{name}_float"
        quantisers = [node for node in graph.consumers(output) if node.op_type == "QuantizeLinear"]
        for node in quantisers:
            node.input[0] = mover.output[0]
    else:
        unpacked = f"{name}_dequantized"
        for reader in readers:
            for place, read in enumerate(reader.input):
                if read == output:
                    reader.input[place] = unpacked
    quantise = graph.add_node("QuantizeLinear", [mover.output[0], *pair.input[1:]], f"{name}_quantized")
    return graph.add_node("DequantizeLinear", [quantise.output[0], *pair.input[1:]], unpacked)
