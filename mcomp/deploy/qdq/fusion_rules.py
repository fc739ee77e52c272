"""What lets TensorRT fuse and run fast in INT8: the P rules, after its documentation and NVIDIA's own placer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from mcomp.deploy.onnx_graph import attribute
from mcomp.deploy.operator_facts import WEIGHTED
from mcomp.deploy.qdq.checked_graph import DEQUANTIZE, QUANTIZE, CheckedGraph, is_pair
from mcomp.deploy.qdq.rules import Fault, rule

_MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Identity", QUANTIZE, DEQUANTIZE})
_ACTIVATIONS = {"Relu", "Clip", "BatchNormalization", "LeakyRelu"}


@rule("P1", "warning", "tensorrt", "openvino")
def both_operands_are_quantised(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A layer runs in integers when its input and its weight are quantised, both."""
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return
    activation, weight = (graph.dequantised(name) is not None for name in node.input[:2])
    if activation and weight:
        return
    pooled = graph.made_by(node.input[0], "GlobalAveragePool", "ReduceMean", "Flatten")
    if node.op_type == "Gemm" and not weight and pooled:
        return  # a float classifier behind a global pool (P8) is what NVIDIA's own placer leaves
    missing = "input nor weight" if not (activation or weight) else "weight" if activation else "input"
    prefix = "neither " if not (activation or weight) else "only one side quantised, not the "
    yield f"{prefix}{missing} quantised: it runs in float", "quantise both, or accept it"


@rule("P2", "warning", "tensorrt", "openvino")
def activation_comes_before_q(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Between a layer and its activation there is no Q/DQ."""
    if node.op_type != QUANTIZE or not graph.made_by(node.input[0], *WEIGHTED):
        return
    behind = {after.op_type for reader in graph.readers(node) for after in graph.readers(reader)}
    if behind & _ACTIVATIONS:
        yield "Q/DQ between a layer and its activation", "quantise behind the activation"


@rule("P3", "warning", "tensorrt")
def one_side_of_a_residual_is_raw(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A residual Add fuses into the convolution whose output it reads raw."""
    if node.op_type != "Add" or len(node.input) != 2:
        return
    sources = [graph.dequantised(name) for name in node.input]
    if not any(sources) and all(_comes_from_integers(graph, name) for name in node.input):
        yield "two raw convolutions in one residual Add: only one fuses", "quantise the shortcut's output"
    if any(source is None for source in sources):
        return
    for source in sources:
        assert source is not None
        quantise = graph.maker(source.input[0])
        if quantise is not None and graph.made_by(quantise.input[0], *WEIGHTED) and len(graph.readers(source)) == 1:
            yield "Q/DQ on both inputs of a residual Add", "quantise the skip input only"
            return


@rule("P4", "warning", "tensorrt")
def pools_stand_between_pairs(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A pool runs in INT8 as DQ, pool, Q."""
    if node.op_type not in ("MaxPool", "AveragePool", "GlobalAveragePool"):
        return
    readers = {reader.op_type for reader in graph.readers(node)}
    if graph.dequantised(node.input[0]) is None:
        if QUANTIZE in readers and _comes_from_integers(graph, node.input[0]):
            yield "a pool in float between integer layers", "quantise its input too: Q, DQ, pool, Q"
    elif readers & WEIGHTED:
        yield "a quantised pool without Q behind it", "quantise its output too: DQ, pool, Q"


@rule("P5", "warning", "tensorrt")
def parts_of_a_concat_share_a_scale(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Inputs of one Concat have one scale; otherwise all but one are requantised."""
    if node.op_type != "Concat":
        return
    sources = [graph.dequantised(name) for name in node.input]
    if any(source is None for source in sources) or not any(r.op_type == QUANTIZE for r in graph.readers(node)):
        return
    scales = {float(scale.ravel()[0]) for source in sources if source and (scale := graph.scale(source)) is not None}
    if len(scales) > 1:
        yield f"its {len(node.input)} inputs have {len(scales)} scales", "give them one scale, that of its output"


@rule("P6", "warning", "tensorrt")
def nothing_between_pad_and_layer(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A Pad fuses into the layer behind it when no Q/DQ stands between them."""
    if node.op_type == QUANTIZE and graph.made_by(node.input[0], "Pad"):
        yield "Q/DQ between Pad and what reads it", "pad inside the convolution (its `pads`)"


@rule("P7", "warning", "tensorrt")
def no_float_islands(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """An upsampling between two integer layers reads integers too."""
    if node.op_type not in ("Resize", "Upsample") or graph.dequantised(node.input[0]) is not None:
        return
    if QUANTIZE in {reader.op_type for reader in graph.readers(node)} and _comes_from_integers(graph, node.input[0]):
        message = f"`{node.op_type}` runs in float between two quantised layers"
        yield message, "quantise its input too: Q, DQ, resize, Q"


@rule("P8", "warning", "tensorrt")
def a_classifier_behind_a_global_pool_may_stay_float(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """One product of a vector and a matrix gains nothing from INT8, and its rounding is that of the answer."""
    if node.op_type not in ("Gemm", "MatMul") or node.output[0] not in graph.outputs:
        return
    if any(graph.dequantised(name) is None for name in node.input[:2]):
        return
    maker = graph.behind(node.input[0], _MOVES)
    if maker is not None and maker.op_type in ("GlobalAveragePool", "ReduceMean"):
        yield "the classifier behind a global pool is quantised", "leave it float: `last_layer_float: true`"


@rule("P9", "warning", "tensorrt")
def channels_fill_their_blocks(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Channel counts are multiples of 16: kernels compute in such blocks."""
    shape = _quantised_conv_shape(graph, node)
    if shape is None or _depthwise(node, shape):
        return
    groups = int(attribute(node, "group", 1))
    odd = [count for count in (shape[0], shape[1] * groups) if count % 16 and count > 4]
    if odd:
        message = f"{odd[0]} channels: int8 kernels compute in blocks of 16 or 32, the rest is padding"
        yield message, "prune with `regular: 16` or 32"


@rule("P10", "warning", "tensorrt")
def depthwise_is_measured(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Depthwise convolutions often gain nothing from INT8."""
    shape = _quantised_conv_shape(graph, node)
    if shape is not None and _depthwise(node, shape):
        yield "a depthwise convolution is often slower in int8 than in fp16", "measure it in float"


@rule("P11", "warning")
def a_tensor_has_one_scale(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """All readers of a tensor share one Q/DQ pair."""
    scales = {reader.input[1] for reader in graph.readers(node) if reader.op_type == QUANTIZE}
    values = {float(array.ravel()[0]) for name in scales if (array := graph.constant(name)) is not None}
    if len(values) > 1:
        yield f"its output is quantised with {len(values)} scales", "share one Q/DQ pair"


@rule("P12", "warning")
def batch_norms_are_folded(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Scales belong to folded weights."""
    if node.op_type == "BatchNormalization":
        yield "a batch norm in the deployed graph", "fold it (`bn_fuse`) before export"


@rule("P13", "warning")
def weights_are_stored_as_integers(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A weight in front of Q is stored as float, four times as large; that is for refitting an engine."""
    weight = graph.initializer(node.input[0]) if node.op_type == QUANTIZE and is_pair(node) else None
    if weight is not None and len(weight.dims) > 1:
        size = int(np.prod(weight.dims))
        message = f"a weight of {size} numbers is stored in float in front of Q"
        yield message, "store its integers and keep DQ alone"


def _comes_from_integers(graph: CheckedGraph, tensor: str) -> bool:
    """Whether a layer with quantised operands made ``tensor``, maybe through its activation."""
    maker = graph.behind(tensor, _ACTIVATIONS)
    return maker is not None and maker.op_type in WEIGHTED and graph.dequantised(maker.input[0]) is not None


def _quantised_conv_shape(graph: CheckedGraph, node: onnx.NodeProto) -> tuple[int, ...] | None:
    source = graph.dequantised(node.input[1]) if node.op_type == "Conv" else None
    weight = graph.weight_of(source) if source is not None else None
    return None if weight is None else weight.shape


def _depthwise(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    return shape[1] == 1 and int(attribute(node, "group", 1)) > 1
