"""What keeps ONNX Runtime (O rules) and OpenVINO (V rules) in integers; seen in the graphs that they made.

Versions that this was seen in: ONNX Runtime 1.31, OpenVINO 2026.4, x86-64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from mcomp.deploy.operator_facts import WEIGHTED
from mcomp.deploy.qdq.checked_graph import DEQUANTIZE, QUANTIZE, CheckedGraph, is_pair
from mcomp.deploy.qdq.rules import Fault, rule

_WIDE = ("int16", "uint16", "int32")
_NOT_IN_OPENVINO = ("QGemm", "QLinearGlobalAveragePool")
_FLOAT_IN_OPENVINO = ("ConvInteger", "MatMulInteger", "MatMulNBits")


@rule("O1", "warning", "onnxruntime")
def convolutions_end_in_q(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A convolution becomes an integer kernel when Q stands behind it, directly or behind its ReLU."""
    if node.op_type != "Conv" or graph.dequantised(node.input[1]) is None:
        return
    behind = graph.readers(node)
    if len(behind) == 1 and behind[0].op_type in ("Relu", "Clip"):
        behind = graph.readers(behind[0])
    if [reader.op_type for reader in behind] != [QUANTIZE]:
        message = "quantised weights, but no Q right behind it: it runs in float and unpacks its weights every time"
        yield message, "quantise its output, with the activation left to the Q's saturation"


@rule("O2", "warning", "onnxruntime")
def activations_are_uint8(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Fast kernels take uint8 activations and int8 weights; behind a ReLU an int8 Q keeps the layer in float."""
    zero_point = graph.zero_point(node) if node.op_type == QUANTIZE else None
    if zero_point is None or zero_point.dtype != np.int8 or graph.constant(node.input[0]) is not None:
        return
    message = "an int8 activation; the fast kernels of ONNX Runtime take uint8 activations and int8 weights"
    yield message, "write uint8 with zero point 128"


@rule("O3", "warning", "onnxruntime")
def sums_are_quantised_all_round(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """An Add or Mul runs in integers when both inputs come from DQ and its output goes to Q."""
    if node.op_type not in ("Add", "Mul") or len(node.input) != 2:
        return
    sources = [graph.made_by(name, DEQUANTIZE) for name in node.input]
    ends = [reader.op_type for reader in graph.readers(node)]
    if not any(sources) or any(graph.constant(name) is not None for name in node.input):
        return
    if not all(sources):
        yield "one input is quantised and the other is not: it runs in float", "quantise both inputs and the output"
    elif ends and set(ends) - {QUANTIZE, "Relu"}:
        yield "both inputs are quantised and the output is not: it runs in float", "quantise its output too"


@rule("O4", "warning", "onnxruntime", "openvino")
def activations_have_eight_bits(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """16 bits are computed in float by both CPU runtimes."""
    zero_point = graph.zero_point(node) if node.op_type == QUANTIZE else None
    if zero_point is not None and zero_point.dtype.name in _WIDE:
        yield f"an activation of type {zero_point.dtype.name}: what reads it runs in float", "use 8 bits"


@rule("V2", "error", "openvino")
def integer_operators_are_taken(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Of the operators that compute with integers themselves, OpenVINO has some, and those not for every weight."""
    fix = "write the file in Q/DQ form: QuantizeLinear and DequantizeLinear around float operators"
    if node.op_type in _NOT_IN_OPENVINO:
        yield f"`{node.op_type}` is not supported", fix
    if node.op_type != "QLinearConv" or len(node.input) < 8:
        return
    scale, zero_point = graph.constant(node.input[4]), graph.constant(node.input[5])
    if scale is not None and scale.size > 1:
        yield "`QLinearConv` with a scale per channel is not supported", fix
    elif zero_point is not None and zero_point.dtype == np.uint8:
        yield "`QLinearConv` with uint8 weights is not supported", "quantise the weights as int8, or " + fix


@rule("V3", "warning", "openvino")
def integer_operators_stay_integer(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Products of integers without Q and DQ are computed in float."""
    zero_point = graph.constant(node.input[5]) if node.op_type == "QLinearMatMul" and len(node.input) > 5 else None
    if node.op_type in _FLOAT_IN_OPENVINO or (zero_point is not None and zero_point.dtype == np.uint8):
        what = "with uint8 weights " if zero_point is not None else ""
        yield f"`{node.op_type}` {what}is computed in float", "write Q and DQ around a float operator, weights as int8"


@rule("V1", "warning", "openvino")
def weights_are_symmetric(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A weight with a zero point is computed with in float."""
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return
    source = graph.dequantised(node.input[1])
    if source is None or not is_pair(source) or graph.weight_of(source) is None:
        return
    zero_point = graph.zero_point(source)
    if zero_point is not None and zero_point.astype(np.int64).any():
        yield (
            "its weight has a zero point that is not 0: it runs in float",
            "quantise the weight symmetrically, as int8",
        )
