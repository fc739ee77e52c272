"""Products with activations that are quantised at run time, in integers: ``MatMulInteger``.

Of Q/DQ pairs with constant scales ONNX Runtime makes integer kernels itself; with a scale of each tensor's own it
would unpack both sides to float at every call. Spelled out, it runs quantising, product, scales and bias as one kernel.
"""

from __future__ import annotations

import numpy as np
import onnx

from mcomp.deploy.onnx_graph import OnnxGraph, attribute

#: Move elements about, whatever their type is.
_MOVING = frozenset({"Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def integer_products(graph: OnnxGraph) -> None:
    """Rewrite every ``Gemm`` and ``MatMul`` of dynamically quantised activations with an int8 weight, in place."""
    for node in list(graph.nodes):
        if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (1.0, 1.0):
            continue
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transA", 0)):
            _rewrite(graph, node)


def _rewrite(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    moved, weight = _activation(graph, node), graph.producer(node.input[1])
    if moved is None or weight is None or weight.op_type != "DequantizeLinear":
        return
    values, zero = graph.array(weight.input[0]), graph.array(weight.input[2])
    if values is None or zero is None or values.dtype.name not in ("int8", "uint8") or values.ndim != 2:
        return
    transposed = bool(attribute(node, "transB", 0))
    if attribute(weight, "axis", 1) != (0 if transposed else 1):
        return  # scales of what is summed over
    unpacking, chain = moved
    name, output = graph.unique(node.name or node.output[0]), node.output[0]
    stored = weight.input[0]
    if transposed:
        stored = graph.shared(f"{stored}_transposed", np.ascontiguousarray(values.T))
    zero_point = graph.shared(f"{weight.input[2]}_of_all", zero.reshape(-1)[0].reshape(()))
    integers = _moved_integers(graph, unpacking.input[0], chain, name)
    sums = graph.add_node("MatMulInteger", [integers, stored, unpacking.input[2], zero_point], f"{name}_sums")
    counts = graph.add_node("Cast", [sums.output[0]], f"{name}_counts", to=int(onnx.TensorProto.FLOAT))
    unit = graph.add_node("Mul", [unpacking.input[1], weight.input[1]], f"{name}_unit")
    made = graph.add_node("Mul", [counts.output[0], unit.output[0]], f"{name}_product")
    if len(node.input) > 2 and node.input[2]:
        made = graph.add_node("Add", [made.output[0], node.input[2]], f"{name}_biased")
    graph.remove(node)
    graph.redirect(output, made.output[0])


def _activation(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """What unpacks the layer's input, and what moves that about before the layer reads it; None if it is no such."""
    chain: list[onnx.NodeProto] = []
    maker = graph.producer(node.input[0])
    while maker is not None and maker.op_type in _MOVING:
        chain.insert(0, maker)
        maker = graph.producer(maker.input[0])
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    source = graph.producer(maker.input[0])
    return (maker, chain) if source is not None and source.op_type == "DynamicQuantizeLinear" else None


def _moved_integers(graph: OnnxGraph, integers: str, chain: list[onnx.NodeProto], name: str) -> str:
    """``integers`` moved about as the floats were; what no other layer reads of those falls away."""
    for place, node in enumerate(chain):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0], copy.output[0] = integers, f"{name}_moved{place}"
        copy.name = f"{copy.output[0]}/{copy.op_type}"
        graph.nodes.append(copy)
        integers = copy.output[0]
    return integers
