"""What an operator does to the values of a tensor: moves them, keeps their sign, or multiplies them by weights."""

from __future__ import annotations

import numpy as np
import onnx

from mcomp.deploy.marking import DOMAIN
from mcomp.deploy.onnx_graph import OnnxGraph, attribute

#: Outputs hold elements of the first input and nothing else; see also :func:`commutes`.
COMMUTING = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "DepthToSpace"}
)
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Results that are never below zero; and those that keep the sign of their first input.
NON_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid", "Softplus"})
SIGN_KEEPING = COMMUTING | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Identity", "Dropout"}


def commutes(node: onnx.NodeProto) -> bool:
    """Whether quantising commutes with the operation: it only picks elements of its first input.

    A resize does that where it copies the nearest element, and puts no value of its own beyond the border.
    """
    if node.op_type == "Resize":
        own_border = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return attribute(node, "mode", "nearest") == "nearest" and not own_border
    return node.op_type in COMMUTING


def feeds_weights(graph: OnnxGraph, tensor: str) -> bool:
    """True if a layer with weights reads ``tensor``, or reads it through operations that commute."""
    return any(
        reader.op_type in WEIGHTED or (commutes(reader) and feeds_weights(graph, reader.output[0]))
        for reader in graph.consumers(tensor)
    )


def clip_bounds(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[float, float]:
    """A ``Clip`` node's limits; infinite where absent, NaN where computed."""
    limits = [-np.inf, np.inf]
    for index, tensor in enumerate(node.input[1:3]):
        if tensor:
            value = graph.array(tensor)
            limits[index] = float(value) if value is not None else np.nan
    return limits[0], limits[1]


def non_negative(graph: OnnxGraph, tensor: str) -> bool:
    """True if the graph shows that ``tensor`` is never below zero."""
    maker = graph.producer(tensor)
    if maker is None:
        value = graph.array(tensor)
        return value is not None and bool((value >= 0).all())
    if maker.op_type in NON_NEGATIVE:
        return True
    if maker.op_type == "Clip":
        return clip_bounds(graph, maker)[0] >= 0
    if maker.op_type == "Resize" and attribute(maker, "mode", "nearest") == "cubic":
        return False  # it overshoots
    if maker.op_type in SIGN_KEEPING | {"QuantizeLinear", "DequantizeLinear", "Resize"}:
        return non_negative(graph, maker.input[0])
    if maker.op_type in ("Add", "Mul", "Concat", "Max"):
        return all(non_negative(graph, name) for name in maker.input)
    return False


def reads_integers(graph: OnnxGraph, tensor: str) -> bool:
    """True if the tensor is, or will be, unpacked from integers."""
    maker = graph.producer(tensor)
    while maker is not None and commutes(maker):
        maker = graph.producer(maker.input[0])
    return maker is not None and (maker.domain == DOMAIN or maker.op_type == "DequantizeLinear")
