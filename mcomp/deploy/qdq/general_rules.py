"""What holds for every runtime: the G rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from mcomp.deploy.onnx_graph import attribute
from mcomp.deploy.operator_facts import COMMUTING, commutes
from mcomp.deploy.qdq.checked_graph import DEQUANTIZE, QUANTIZE, CheckedGraph, is_pair
from mcomp.deploy.qdq.rules import Fault, rule

#: Type of the integers, and since which version of ONNX's operators Q and DQ take it.
_SINCE: dict[int, int] = {
    TensorProto.INT16: 21, TensorProto.UINT16: 21, TensorProto.INT4: 21, TensorProto.UINT4: 21,
    TensorProto.INT2: 25, TensorProto.UINT2: 25,
}  # fmt: skip
_PER_CHANNEL, _BLOCKED, _HALF_SCALE = 13, 21, 19
#: What may stand between Q and DQ: it moves integers about, or computes with them.
_TAKES_INTEGERS = COMMUTING | {
    DEQUANTIZE, "Identity", "Concat", "Gather", "Cast", "Pad", "Shape", "Expand", "Tile", "Where", "Clip",
    "SpaceToDepth", "ArgMax", "ArgMin", "TopK", "ReduceMax", "ReduceMin", "GatherElements", "GatherND", "Size",
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
}  # fmt: skip


@rule("G1", "error")
def opset_knows_what_is_used(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Every type and attribute of Q and DQ exists in the file's opset."""
    if not is_pair(node) or node.domain == "com.microsoft":
        return
    scale = graph.scale(node)
    needs: list[tuple[int, str]] = []
    if scale is not None and scale.size > 1:
        needs.append((_PER_CHANNEL, "several scales"))
    if scale is not None and scale.dtype == np.float16:
        needs.append((_HALF_SCALE, "float16 scales"))
    if attribute(node, "block_size", 0):
        needs.append((_BLOCKED, "blocks of scales"))
    for name in (node.input[0], *node.input[2:3]):
        tensor = graph.initializer(name)
        if tensor is not None and tensor.data_type in _SINCE:
            needs.append((_SINCE[tensor.data_type], TensorProto.DataType.Name(tensor.data_type)))
    since, what = max(needs, default=(0, ""))
    if since > graph.opset:
        yield (
            f"{what} in a file of opset {graph.opset}; {node.op_type} has them since {since}",
            f"export at opset {since}",
        )


@rule("G2", "error")
def integers_are_dequantised(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Between Q and DQ stands nothing that computes with real numbers."""
    if node.op_type != QUANTIZE or not is_pair(node):
        return
    for tensor, reader in _integer_readers(graph, node):
        if not _takes_integers(reader):
            message = f"`{reader.name or reader.op_type}` ({reader.op_type}) reads the integers `{tensor}` as they are"
            yield message, "put DequantizeLinear in front of it"


@rule("G3", "error", "onnxruntime", "openvino")
def scales_fit_their_axis(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """There are as many scales as entries on their axis, which is 1 where none is written."""
    given = graph.scale(node)
    data = graph.constant(node.input[0]) if given is not None else None
    if given is None or data is None or not data.ndim:
        return
    axis, block = int(attribute(node, "axis", 1)), int(attribute(node, "block_size", 0))
    if block:
        wanted = [-(-size // block) if place == axis % data.ndim else size for place, size in enumerate(data.shape)]
        if list(given.shape) != wanted:
            message = f"scales of shape {list(given.shape)} for blocks of {block} on axis {axis} of {list(data.shape)}"
            yield message, f"give scales of shape {wanted}"
        return
    scale = graph.channel_scales(node)
    if scale is not None and not _fits(data.shape, axis, scale.size):
        message = f"{scale.size} scales on axis {axis} of a tensor of shape {list(data.shape)}"
        yield message, "give one scale per entry of that axis"


@rule("G4", "warning")
def a_pair_agrees(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Q and its DQ have one scale and one zero point; otherwise every value is stretched or moved."""
    maker = graph.maker(node.input[0]) if node.op_type == DEQUANTIZE and is_pair(node) else None
    if maker is None or maker.op_type != QUANTIZE or not is_pair(maker):
        return
    for what, ours, theirs in (
        ("scale", graph.scale(node), graph.scale(maker)),
        ("zero point", graph.zero_point(node), graph.zero_point(maker)),
    ):
        if ours is not None and theirs is not None and not _same(ours, theirs):
            yield f"its {what} is not that of `{maker.name or maker.output[0]}`", f"give both the same {what}"


def _takes_integers(reader: onnx.NodeProto) -> bool:
    return commutes(reader) or reader.op_type in _TAKES_INTEGERS or reader.domain == "com.microsoft"


def _same(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    mine, other = (each.astype(np.float64).ravel() for each in (ours, theirs))
    return np.array_equal(mine, other, equal_nan=True)  # E3 speaks of nan


def _fits(shape: tuple[int, ...], axis: int, count: int) -> bool:
    return -len(shape) <= axis < len(shape) and shape[axis] == count


def _integer_readers(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """What reads the integers of a Q, behind operations that only move them too."""
    waiting, seen = [node], {id(node)}
    while waiting:
        maker = waiting.pop()
        for reader in graph.readers(maker):
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            yield maker.output[0], reader
            if commutes(reader) or reader.op_type in ("Identity", "Concat"):
                waiting.append(reader)
