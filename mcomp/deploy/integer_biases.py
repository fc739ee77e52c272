"""Biases as int32 with a scale: in units of an integer kernel's sums, or, where there is no such kernel, exact.

ONNX Runtime rounds every float bias between integers to those units itself (seen in 1.31), also where it then computes
in float: with weights of few bits, whose step is coarse, that shows in the results. It leaves alone what is an int32.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from mcomp.deploy.low_bit import INTEGERS
from mcomp.deploy.lowering import Lowering, TensorLowering
from mcomp.deploy.onnx_graph import OnnxGraph

#: Bits of a float32's mantissa, and the exponent of the smallest normal one.
_MANTISSA, _SMALLEST = 24, -126


def integer_biases(graph: OnnxGraph, lowering: Lowering) -> None:
    """Store the bias of every layer between constant scales as int32, in place, and add its row to the table.

    A layer that feeds a quantiser gets it in the unit of its sums, input scale times weight scale; the others get the
    very same floats, as whole numbers times powers of two.
    """
    for node in list(graph.nodes):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3 or not node.input[2]:
            continue
        bias, unit = graph.array(node.input[2]), _unit(graph, node)
        if bias is None or unit is None or bias.ndim != 1:
            continue
        scale = unit if _has_integer_kernel(graph, node) else _exact_scale(bias)
        integers = np.rint(bias.astype(np.float64) / scale)
        if np.abs(integers).max(initial=0) <= 2**31 - 1:
            _store(graph, node, bias, integers, np.broadcast_to(scale, bias.shape), lowering)


def _store(
    graph: OnnxGraph,
    node: onnx.NodeProto,
    bias: NDArray[np.float32],
    integers: NDArray[np.float64],
    scale: NDArray[np.float32],
    lowering: Lowering,
) -> None:
    name = graph.unique(node.input[2])  # a layer called twice has another input scale at each call
    error = float(np.abs(integers * scale.astype(np.float64) - bias).max(initial=0))
    inputs = [
        graph.add_initializer(f"{name}_integers", integers.astype(np.int32)),
        graph.add_initializer(f"{name}_scale", scale),
        graph.add_initializer(f"{name}_zero_point", np.zeros(len(scale), np.int32)),
    ]
    node.input[2] = graph.add_node("DequantizeLinear", inputs, f"{name}_dequantized", axis=0).output[0]
    why = "rounded to units of the accumulator (input scale times weight scale)" if error else ""
    scales = [float(entry) for entry in scale]
    lowering.tensors.append(TensorLowering(name, "bias", 32, scales, 0, "int32", not error, error, why))


def _has_integer_kernel(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    """Whether sums of integers are what the layer ends in: no other than ``Gemm`` has a kernel with a float output."""
    unpacked = graph.producer(node.input[1])
    weight = graph.array(unpacked.input[0]) if unpacked is not None else None
    if node.op_type == "ConvTranspose" or weight is None or weight.dtype.name in INTEGERS:
        return False
    return node.op_type == "Gemm" or [each.op_type for each in graph.consumers(node.output[0])] == ["QuantizeLinear"]


def _unit(graph: OnnxGraph, node: onnx.NodeProto) -> NDArray[np.float32] | None:
    """Input scale times weight scale of each output channel; None unless both come from ``DequantizeLinear``."""
    scales = []
    for maker in (graph.producer(name) for name in node.input[:2]):
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        scale = graph.array(maker.input[1])
        if scale is None:
            return None
        scales.append(scale)
    product: NDArray[np.float32] = (scales[0].reshape(-1) * scales[1].reshape(-1)).astype(np.float32)
    return product


def _exact_scale(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """Powers of two of which the entries are whole multiples below 2**24."""
    _, exponent = np.frexp(bias)
    scale: NDArray[np.float32] = np.ldexp(np.float32(1), np.maximum(exponent - _MANTISSA, _SMALLEST)).astype(np.float32)
    return scale
