"""An average of integers as an integer convolution: the same sums, by the faster kernel.

The mean over ``k`` elements of each channel is a depthwise convolution with ones whose weight scale is ``1/k``: its
32-bit accumulator holds the exact sum. ONNX Runtime has a vectorised kernel for that, and none for its pool.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from mcomp.deploy.onnx_graph import OnnxGraph, attribute
from mcomp.deploy.simplify import inferred_shapes

#: A window beyond this is a mean over whole maps, which the pool computes as fast.
LARGEST_WINDOW = 25
_GEOMETRY = ("kernel_shape", "pads", "strides", "dilations", "auto_pad")


def pools_as_convolutions(graph: OnnxGraph) -> int:
    """Replace each average pool between ``DequantizeLinear`` and ``QuantizeLinear``, in place; how many there were."""
    shapes = inferred_shapes(graph.finish())
    count = 0
    for node in [each for each in graph.nodes if each.op_type == "AveragePool" and _between_integers(graph, each)]:
        kernel = attribute(node, "kernel_shape")
        channels = shapes.get(node.input[0], [None, None])[1]
        exact = attribute(node, "count_include_pad", 0) or not any(attribute(node, "pads", []))  # one divisor
        whole = not attribute(node, "ceil_mode", 0) and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        if not (exact and whole and isinstance(channels, int)) or math.prod(kernel) > LARGEST_WINDOW:
            continue
        name = graph.unique(f"{node.output[0]}_mean")
        inputs = [
            graph.add_initializer(f"{name}_ones", np.ones((channels, 1, *kernel), np.int8)),
            graph.add_initializer(f"{name}_scale", np.asarray(1 / math.prod(kernel), np.float32)),
            graph.add_initializer(f"{name}_zero_point", np.asarray(0, np.int8)),
        ]
        weight = graph.add_node("DequantizeLinear", inputs, f"{name}_dequantized").output[0]
        geometry = {
            entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name in _GEOMETRY
        }
        graph.remove(node)
        graph.add_node("Conv", [node.input[0], weight], node.output[0], group=channels, **geometry)
        count += 1
    return count


def _between_integers(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    maker, readers = graph.producer(node.input[0]), graph.consumers(node.output[0])
    behind = [reader.op_type for reader in readers]
    return maker is not None and maker.op_type == "DequantizeLinear" and behind == ["QuantizeLinear"]
