"""Say the same in fewer or plainer nodes, so that integers can pass: constant reshapes, means without padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from mcomp.deploy.marking import DOMAIN
from mcomp.deploy.onnx_graph import OnnxGraph, attribute

#: A number, the name of a dynamic axis, or None where nothing is known.
Number = int | str | None
Numbers = list[Number]
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: int(a / b),  # ONNX truncates
}


def fix_reshapes(proto: onnx.ModelProto) -> int:
    """Give every ``Reshape`` whose target is known but for the batch a constant shape, in place.

    ``x.view(x.size(0), …)`` is exported as a chain of Shape, Gather and Concat that reads ``x`` a second time; a
    constant says the same with 0 (the input's own size on this axis) or -1 for the batch. Returns how many were
    replaced.
    """
    count = 0
    while (fixed := _fix_once(proto)) > 0:
        count += fixed  # each one may make the shapes behind it known
    return count


def count_no_padding(proto: onnx.ModelProto) -> None:
    """Let average pools without padding say that they count none, in place.

    Where ``ceil_mode`` lets a window reach over the edge, the integer pool of ONNX Runtime (1.31) would count that part
    as padding, and so compute another mean than its float pool.
    """
    for node in proto.graph.node:
        if node.op_type == "AveragePool" and not any(attribute(node, "pads", [])):
            for entry in node.attribute:
                if entry.name == "count_include_pad":
                    entry.i = 0


def _fix_once(proto: onnx.ModelProto) -> int:
    graph = OnnxGraph(proto)
    shapes = inferred_shapes(proto)
    count = 0
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Reshape" or graph.array(node.input[1]) is not None or attribute(node, "allowzero", 0):
            continue
        constant = _constant(_value(graph, shapes, node.input[1]), shapes.get(node.input[0], []))
        if constant is None:
            continue
        name = f"reshape_{index}.shape"
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(constant, np.int64), name))
        node.input[1] = name
        count += 1
    return count


def _constant(target: Numbers | None, source: Numbers) -> list[int] | None:
    """The target as ONNX writes it; None where more than one size stays open."""
    if target is None:
        return None
    kept = [
        0 if isinstance(size, str) and source[axis : axis + 1] == [size] else size for axis, size in enumerate(target)
    ]
    constant = [size if isinstance(size, int) else -1 for size in kept]
    return constant if constant.count(-1) <= 1 else None


def _value(graph: OnnxGraph, shapes: dict[str, Numbers], tensor: str) -> Numbers | None:
    """The numbers of an integer tensor that is computed from shapes; None where that is not understood."""
    constant = graph.array(tensor)
    if constant is not None:
        return [int(number) for number in constant.reshape(-1)]
    node = graph.producer(tensor)
    if node is None:
        return None
    if node.op_type == "Shape":
        known = shapes.get(node.input[0])
        return None if known is None else known[attribute(node, "start", 0) : attribute(node, "end", len(known))]
    parts = [_value(graph, shapes, name) for name in node.input]
    first = parts[0] if parts else None
    if node.op_type in ("Unsqueeze", "Squeeze", "Cast", "Identity"):
        return first
    if any(part is None for part in parts):
        return None
    given: list[Any] = parts
    if node.op_type == "Concat":
        return [number for part in given for number in part]
    if node.op_type == "Gather":
        return [given[0][index] for index in given[1]]
    if node.op_type in _ARITHMETIC and len(given[0]) == len(given[1]) == 1:
        a, b = given[0][0], given[1][0]
        if not (isinstance(a, int) and isinstance(b, int)) or (b == 0 and node.op_type == "Div"):
            return [None]
        return [_ARITHMETIC[node.op_type](a, b)]
    return None


def inferred_shapes(proto: onnx.ModelProto) -> dict[str, Numbers]:
    """Tensor to its shape; markers count as the identity."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.domain == DOMAIN:
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
    found = shape_inference.infer_shapes(copy, data_prop=True).graph
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in [*found.input, *found.value_info, *found.output]
        if value.type.tensor_type.HasField("shape")
    }
