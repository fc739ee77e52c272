"""The float rest of a graph in half precision, for engines that take a file's types as the law (TensorRT's strong
typing): a layer left in float32 beside integer ones is what makes INT8 slower than FP16.
"""  # noqa: D205  the reason takes two lines

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mcomp.deploy.lowering import Lowering
from mcomp.deploy.onnx_graph import OnnxGraph, attribute, constant_value
from mcomp.errors import StageError

LARGEST = float(np.finfo(np.float16).max)
#: Smallest positive number of the type; a scale below it becomes this.
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
#: The oldest opset whose Q/DQ has half-precision scales.
HALF_OPSET = 19
#: Inputs that ONNX wants in float32 whatever the data is: the region and the scales of a resize.
_STAY_FLOAT = {"Resize": (1, 2)}


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales as half precision holds them, none of them 0 or infinite."""
    rounded = np.clip(scale, SMALLEST, LARGEST).astype(np.float16)
    return rounded.astype(np.float32)


def to_half(graph: OnnxGraph, lowering: Lowering) -> None:
    """Turn every float32 tensor inside ``graph`` into float16, in place; its inputs and outputs stay float32.

    Raises:
        StageError: MC433, the graph holds a loop, a branch or a range that is found at run time.
    """
    for node in graph.nodes:
        if any(entry.HasField("g") for entry in node.attribute) or node.op_type == "DynamicQuantizeLinear":
            raise StageError(
                f"`{node.op_type}` cannot be written in half precision",
                code="MC433",
                hint='leave `precision` at "fp32" for this network',
            )
    kept = {
        name
        for node in graph.nodes
        for place in _STAY_FLOAT.get(node.op_type, ())
        for name in node.input[place : place + 1]
    }
    clipped = sum(_halve_constant(graph, name) for name in list(graph.initializers) if name not in kept)
    for node in graph.nodes:
        clipped += _halve_attributes(node) if node.output[0] not in kept else 0
    if clipped:
        lowering.notes.append(f"{clipped} constants reach beyond ±{LARGEST:.0f} and were cut there for half precision")
    _cast_ends(graph)


def _halve_constant(graph: OnnxGraph, name: str) -> int:
    tensor = graph.initializers[name]
    if tensor.data_type != TensorProto.FLOAT:
        return 0
    half, clipped = _half(numpy_helper.to_array(tensor))
    graph.initializers[name] = numpy_helper.from_array(half, name)
    return clipped


def _halve_attributes(node: onnx.NodeProto) -> int:
    """Types that a node spells out; 1 if a constant had to be cut."""
    if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT:
        next(entry for entry in node.attribute if entry.name == "to").i = TensorProto.FLOAT16
    if node.op_type not in ("Constant", "ConstantOfShape"):
        return 0
    value = constant_value(node)
    if value is None and node.op_type == "ConstantOfShape":
        value = np.zeros(1, np.float32)
    if value is None or value.dtype != np.float32:
        return 0
    half, clipped = _half(value)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(half)))
    return clipped


def _half(value: NDArray[Any]) -> tuple[NDArray[np.float16], int]:
    finite = np.isfinite(value)
    clipped = bool((np.abs(value[finite]) > LARGEST).any())
    cut = np.where(finite, np.clip(value, -LARGEST, LARGEST), value)
    return np.asarray(cut, np.float16), int(clipped)


def _cast_ends(graph: OnnxGraph) -> None:
    for value in graph.model.graph.input:
        if value.name in graph.inputs and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            half = f"{value.name}_half"
            graph.redirect(value.name, half)
            graph.add_node("Cast", [value.name], half, to=TensorProto.FLOAT16)
    for value in graph.model.graph.output:
        maker = graph.producer(value.name)
        if maker is None or value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        half = f"{value.name}_half"
        for node in graph.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == value.name:
                        names[index] = half
        graph.add_node("Cast", [half], value.name, to=TensorProto.FLOAT)
