"""What TensorRT's ONNX importer enforces: the E rules. A file that breaks one is refused, or means something else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from mcomp.deploy.onnx_graph import attribute
from mcomp.deploy.operator_facts import WEIGHTED
from mcomp.deploy.qdq.checked_graph import DEQUANTIZE, QUANTIZE, CheckedGraph, channel_axis, is_pair
from mcomp.deploy.qdq.rules import Fault, rule

_REFUSED = frozenset(
    {
        "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
        "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift",
    }
)  # fmt: skip
_SCALE_TYPES = ("float32", "float16", "bfloat16")
_ZERO_POINT_TYPES = ("int8", "int4", "float8_e4m3fn")


@rule("E1", "error", "tensorrt")
def operator_is_supported(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Quantisation is written as Q and DQ alone."""
    if node.op_type in _REFUSED or (node.domain == "com.microsoft" and "Q" in node.op_type):
        yield f"`{node.op_type}` is not supported", "write QuantizeLinear and DequantizeLinear only"


@rule("E2", "error", "tensorrt")
def zero_point_is_an_int8_zero(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """A zero point is written out, constant, int8 and 0."""
    if not is_pair(node) or _is_bias(graph, node) or _told_at_its_q(graph, node):
        return
    fix = "write an int8 zero point of zeros, with the shape of the scale"
    if len(node.input) < 3 or not node.input[2]:
        if attribute(node, "output_dtype", 0) in (TensorProto.INT8, TensorProto.INT4):
            yield "no zero point: the type is written, and the importer wants the zeros too", fix
        else:
            yield "no zero point: ONNX reads that as uint8, TensorRT as int8", fix
        return
    zero_point, scale = graph.zero_point(node), graph.scale(node)
    if zero_point is None:
        yield "the zero point is computed", fix
    elif zero_point.dtype.name not in _ZERO_POINT_TYPES:
        yield f"the zero point is {zero_point.dtype.name}, not int8", fix
    elif zero_point.astype(np.float32).any():
        values = zero_point.astype(np.float32).ravel()
        yield "the zero point is not 0", fix, f"it is {values[values != 0][0]:g}"
    elif scale is not None and zero_point.size != scale.size:
        yield f"{zero_point.size} zero points for {scale.size} scales", fix


def _told_at_its_q(graph: CheckedGraph, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is the DQ of a Q with the same zero point: one tensor, of which the Q tells."""
    source = graph.maker(node.input[0]) if node.op_type == DEQUANTIZE else None
    if source is None or source.op_type != QUANTIZE or not is_pair(source):
        return False
    own, told = graph.zero_point(node), graph.zero_point(source)
    same = own is not None and told is not None and own.dtype == told.dtype and np.array_equal(own, told)
    return same or list(source.input[2:3]) == list(node.input[2:3])


@rule("E3", "error")
def scale_is_a_positive_constant(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Scales are constant floats, finite and above 0; no runtime computes sensibly with others."""
    if not is_pair(node):
        return
    scale = graph.scale(node)
    if scale is None:
        if not graph.made_by(node.input[1], "DynamicQuantizeLinear"):  # E1 says whether that is taken
            yield "the scale is computed at run time", "make the scale an initialiser: calibrate first"
    elif scale.dtype.name not in _SCALE_TYPES:
        yield f"the scale is {scale.dtype.name}", "write it as float32"
    else:
        given = scale.astype(np.float32)
        bad = int((~(np.isfinite(given) & (given > 0))).sum())
        if bad:
            message = f"{bad} of {scale.size} scales are not finite numbers above 0"
            yield message, "give a dead channel the scale 1, any positive scale is exact for zeros"


@rule("E4", "error", "tensorrt")
def axis_is_written_and_fits(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Several scales need an explicit axis, with as many entries: the defaults of ONNX and TensorRT differ."""
    scale = graph.channel_scales(node)
    if scale is None:
        return
    axis = attribute(node, "axis")
    if axis is None:
        yield "no `axis`: ONNX's default is 1, TensorRT's importer's is 0", "write `axis` explicitly"
        return
    data = graph.constant(node.input[0])
    if data is not None and (not -data.ndim <= axis < data.ndim or data.shape[axis] != scale.size):
        message = f"{scale.size} scales on axis {axis} of a tensor of shape {list(data.shape)}"
        yield message, "give one scale per entry of that axis"


@rule("E5", "error", "tensorrt")
def only_weights_have_several_scales(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Activations have one scale, weights one per output channel."""
    scale = graph.channel_scales(node)
    if scale is None:
        return
    data = graph.weight_of(node) if node.op_type == DEQUANTIZE else graph.constant(node.input[0])
    if data is None:
        yield f"an activation with {scale.size} scales", "use one scale per activation tensor"
        return
    for reader in graph.readers(node):
        wanted = channel_axis(reader) if reader.op_type in WEIGHTED else None
        axis = attribute(node, "axis", 1)
        if wanted is not None and data.ndim and axis % data.ndim != wanted % data.ndim:
            message = f"the weight of `{reader.name}` has scales on axis {axis}; its output channels are on {wanted}"
            yield message, f"quantise along axis {wanted}"


@rule("E6", "error", "tensorrt")
def four_bits_are_for_matrices(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """INT4 is for weights of matrix products whose last dimension is even, in whole blocks of one dimension."""
    tensor = graph.initializer(node.input[0]) if is_pair(node) else None
    if tensor is None or tensor.data_type not in (TensorProto.INT4, TensorProto.UINT4):
        return
    dims = list(tensor.dims)
    if not dims or dims[-1] % 2 or any(reader.op_type == "Conv" for reader in graph.readers(node)):
        message = f"an INT4 tensor of shape {dims}: only matrix weights with an even last dimension are taken"
        yield message, "store this weight as INT8"
        return
    block, axis = int(attribute(node, "block_size", 0)), int(attribute(node, "axis", 1))
    if block and -len(dims) <= axis < len(dims) and dims[axis] % block:
        yield f"blocks of {block} along {dims[axis]} entries: the last one is no whole block", "divide evenly"


@rule("E7", "error", "tensorrt")
def bias_is_a_float_constant(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """The bias of a layer is in float, that of a convolution an initialiser of one number per output channel."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3 or not node.input[2]:
        return
    fix = "store a float initialiser with one number per output channel"
    if graph.made_by(node.input[2], DEQUANTIZE):
        yield "the bias is quantised", fix
        return
    bias = graph.constant(node.input[2])
    if node.op_type == "Gemm" and bias is None:
        return  # its third operand may be any tensor
    if bias is None or bias.dtype.kind != "f" or (bias.ndim != 1 and node.op_type != "Gemm"):
        what = "computed" if bias is None else f"{bias.dtype.name} of shape {list(bias.shape)}"
        yield f"the bias is {what}", fix


@rule("E8", "error", "tensorrt")
def uint8_stays_outside(graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Fault]:
    """Tensors of uint8 are for the network's inputs and outputs."""
    to_bytes = (
        node.op_type == "Cast" and attribute(node, "to") == TensorProto.UINT8 and node.output[0] not in graph.outputs
    )
    tensor = graph.initializer(node.input[0]) if node.input else None
    stored = tensor is not None and tensor.data_type == TensorProto.UINT8
    if to_bytes or stored:
        yield "a uint8 tensor inside the network", "use int8: uint8 is for inputs and outputs only"


def _is_bias(graph: CheckedGraph, node: onnx.NodeProto) -> bool:
    return any(
        reader.op_type in WEIGHTED and len(reader.input) > 2 and reader.input[2] in node.output
        for reader in graph.readers(node)
    )
