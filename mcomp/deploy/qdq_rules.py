"""What a Q/DQ file must keep to be accepted by a runtime (E rules), and to run fast there (P and O rules).

The E rules are what TensorRT's ONNX importer enforces (zero points, scales, axes, types); the P rules are what its
documentation and NVIDIA's own placer say about fusion; the O rules are about ONNX Runtime's integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from mcomp.deploy.onnx_graph import OnnxGraph, attribute
from mcomp.deploy.qdq_placement import COMMUTING, WEIGHTED
from mcomp.errors import UsageError

Target = Literal["tensorrt", "onnxruntime"]
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_REFUSED = frozenset(
    {
        "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
        "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift",
    }
)  # fmt: skip
_SCALE_TYPES = (np.float32, np.float16)


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: ``E1`` … ``E8``, ``P1`` …, ``O1`` ….
        severity: ``error`` where the runtime refuses the file or computes something else, else ``warning``.
        node: name of the node.
        message: what is wrong, with numbers.
        fix: what to do about it.
    """

    rule: str
    severity: Literal["error", "warning"]
    node: str
    message: str
    fix: str


def check_qdq(path: str | Path, target: Target = "tensorrt") -> list[Violation]:
    """Check any ONNX file, ours or not; errors come first, then warnings, each in the graph's order.

    Raises:
        UsageError: no such target, or the file is no ONNX model (MC443).
    """
    if target not in _RULES:
        raise UsageError(f"no rules for `{target}`", code="MC432", hint=f"targets: {', '.join(_RULES)}")
    graph = _Checked(OnnxGraph(_load(Path(path))))
    found = [violation for rule in _RULES[target] for node in graph.nodes for violation in rule(graph, node)]
    return sorted(found, key=lambda violation: violation.severity != "error")


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UsageError(f"no file `{missing}`", code="MC443", hint="external data must lie beside it") from None
    except Exception as error:  # protobuf raises types of its own per implementation
        raise UsageError(f"`{path}` is not an ONNX model", code="MC443", why=str(error)) from error
    if not model.graph.node:
        raise UsageError(f"`{path}` is not an ONNX model, or an empty one", code="MC443", hint="export it again")
    return model


class _Checked:
    """The graph with constant-time lookups, as the rules ask for them."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes = graph.nodes
        self.initializers = graph.initializers
        self._array = graph.array
        self._makers = {name: node for node in graph.nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return self._makers.get(tensor)

    def made_by(self, tensor: str, *op_types: str) -> bool:
        maker = self.maker(tensor)
        return maker is not None and maker.op_type in op_types

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for name in node.output for reader in self._readers.get(name, [])]

    def constant(self, tensor: str) -> NDArray[Any] | None:
        return self._array(tensor) if tensor in self.initializers or self.made_by(tensor, "Constant") else None

    def dequantised(self, tensor: str) -> onnx.NodeProto | None:
        """The ``DequantizeLinear`` behind ``tensor``, through operations that only move data."""
        maker = self.maker(tensor)
        while maker is not None and maker.op_type in COMMUTING:
            maker = self.maker(maker.input[0])
        return maker if maker is not None and maker.op_type == DEQUANTIZE else None

    def weight_of(self, dequantize: onnx.NodeProto) -> NDArray[Any] | None:
        """The constant that a ``DequantizeLinear`` reads, directly or through ``QuantizeLinear``."""
        source = dequantize.input[0]
        maker = self.maker(source)
        if maker is not None and maker.op_type == QUANTIZE:
            source = maker.input[0]
        return self.constant(source)


def _pairs(node: onnx.NodeProto) -> bool:
    return node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain in ("", "ai.onnx")


def _e1(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type in _REFUSED or (node.domain == "com.microsoft" and "Q" in node.op_type):
        yield _error("E1", node, f"`{node.op_type}` is not supported", "write QuantizeLinear and DequantizeLinear only")


def _e2(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if not _pairs(node) or _is_bias(graph, node):
        return
    fix = "write an int8 zero point of zeros, with the shape of the scale"
    if len(node.input) < 3 or not node.input[2]:
        yield _error("E2", node, "no zero point: ONNX reads that as uint8, TensorRT as int8", fix)
        return
    zero_point, scale = graph.constant(node.input[2]), graph.constant(node.input[1])
    if zero_point is None:
        yield _error("E2", node, "the zero point is computed", fix)
    elif zero_point.dtype.name not in ("int8", "int4", "float8_e4m3fn"):
        yield _error("E2", node, f"the zero point is {zero_point.dtype.name}, not int8", fix)
    elif zero_point.astype(np.float32).any():
        yield _error("E2", node, f"the zero point is {int(zero_point.astype(np.int64).ravel()[0])}, not 0", fix)
    elif scale is not None and zero_point.size != scale.size:
        yield _error("E2", node, f"{zero_point.size} zero points for {scale.size} scales", fix)


def _e3(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if not _pairs(node):
        return
    scale = graph.constant(node.input[1])
    if scale is None:
        yield _error("E3", node, "the scale is computed at run time", "make the scale an initialiser: calibrate first")
    elif scale.dtype.type not in _SCALE_TYPES and scale.dtype.name != "bfloat16":
        yield _error("E3", node, f"the scale is {scale.dtype.name}", "write it as float32")
    else:
        bad = ~(np.isfinite(scale.astype(np.float32)) & (scale.astype(np.float32) > 0))
        if bad.any():
            message = f"{int(bad.sum())} of {scale.size} scales are not finite numbers above 0"
            yield _error("E3", node, message, "give a dead channel the scale 1, any positive scale is exact for zeros")


def _e4(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    scale = graph.constant(node.input[1]) if _pairs(node) else None
    if scale is None or scale.ndim == 0:
        return
    axis = attribute(node, "axis")
    if axis is None:
        message = "no `axis`: ONNX's default is 1, TensorRT's importer's is 0"
        yield _error("E4", node, message, "write `axis` explicitly")
        return
    data = graph.constant(node.input[0])
    if data is not None and (not -data.ndim <= axis < data.ndim or data.shape[axis] != scale.size):
        message = f"{scale.size} scales on axis {axis} of a tensor of shape {list(data.shape)}"
        yield _error("E4", node, message, "give one scale per entry of that axis")


def _e5(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    scale = graph.constant(node.input[1]) if _pairs(node) else None
    if scale is None or scale.size == 1:
        return
    source = node if node.op_type == DEQUANTIZE else None
    data = graph.weight_of(source) if source is not None else graph.constant(node.input[0])
    if data is None:
        yield _error("E5", node, f"an activation with {scale.size} scales", "use one scale per activation tensor")
        return
    for reader in graph.readers(node):
        wanted = _channel_axis(reader) if reader.op_type in WEIGHTED else None
        axis = attribute(node, "axis", 1)
        if wanted is not None and data.ndim and axis % data.ndim != wanted % data.ndim:
            message = f"the weight of `{reader.name}` has scales on axis {axis}; its output channels are on {wanted}"
            yield _error("E5", node, message, f"quantise along axis {wanted}")


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1)


def _e6(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    tensor = graph.initializers.get(node.input[0]) if _pairs(node) else None
    if tensor is None or tensor.data_type not in (TensorProto.INT4, TensorProto.UINT4):
        return
    dims = list(tensor.dims)
    if not dims or dims[-1] % 2 or any(reader.op_type == "Conv" for reader in graph.readers(node)):
        message = f"an INT4 tensor of shape {dims}: only matrix weights with an even last dimension are taken"
        yield _error("E6", node, message, "store this weight as INT8")


def _is_bias(graph: _Checked, node: onnx.NodeProto) -> bool:
    return any(
        reader.op_type in WEIGHTED and len(reader.input) > 2 and reader.input[2] in node.output
        for reader in graph.readers(node)
    )


def _e7(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type not in ("Conv", "ConvTranspose") or len(node.input) < 3 or not node.input[2]:
        return
    bias = graph.constant(node.input[2])
    if bias is None or bias.ndim != 1 or bias.dtype.kind != "f":
        what = "computed or quantised" if bias is None else f"{bias.dtype.name} of shape {list(bias.shape)}"
        yield _error("E7", node, f"the bias is {what}", "store a float initialiser with one number per output channel")


def _e8(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    to_bytes = node.op_type == "Cast" and attribute(node, "to") == TensorProto.UINT8
    tensor = graph.initializers.get(node.input[0]) if node.input else None
    stored = tensor is not None and tensor.data_type == TensorProto.UINT8
    if to_bytes or stored:
        yield _error("E8", node, "a uint8 tensor inside the network", "use int8: uint8 is for inputs and outputs only")


def _p1(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return
    activation, weight = (graph.dequantised(name) is not None for name in node.input[:2])
    if activation and weight:
        return
    pooled = graph.made_by(node.input[0], "GlobalAveragePool", "ReduceMean", "Flatten")
    if node.op_type == "Gemm" and not weight and pooled:
        return  # a float classifier behind a global pool is what NVIDIA's own placer leaves
    missing = "input nor weight" if not (activation or weight) else "weight" if activation else "input"
    prefix = "neither " if not (activation or weight) else "only one side quantised, not the "
    yield _warning("P1", node, f"{prefix}{missing} quantised: it runs in float", "quantise both, or accept it")


def _p2(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type != QUANTIZE or not graph.made_by(node.input[0], *WEIGHTED):
        return
    behind = [after.op_type for reader in graph.readers(node) for after in graph.readers(reader)]
    if set(behind) & {"Relu", "Clip", "BatchNormalization", "LeakyRelu"}:
        yield _warning("P2", node, "Q/DQ between a layer and its activation", "quantise behind the activation")


def _p3(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type != "Add" or len(node.input) != 2:
        return
    sources = [graph.dequantised(name) for name in node.input]
    if any(source is None for source in sources):
        return
    for source in sources:
        assert source is not None
        quantise = graph.maker(source.input[0])
        if quantise is not None and graph.made_by(quantise.input[0], *WEIGHTED) and len(graph.readers(source)) == 1:
            yield _warning("P3", node, "Q/DQ on both inputs of a residual Add", "quantise the skip input only")
            return


def _p4(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type not in ("MaxPool", "AveragePool") or graph.dequantised(node.input[0]) is None:
        return
    readers = [reader.op_type for reader in graph.readers(node)]
    if set(readers) & WEIGHTED:
        yield _warning("P4", node, "a quantised pool without Q behind it", "quantise its output too: DQ, pool, Q")


def _p6(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type == QUANTIZE and graph.made_by(node.input[0], "Pad"):
        yield _warning("P6", node, "Q/DQ between Pad and what reads it", "pad inside the convolution (its `pads`)")


def _p9(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    shape = _quantised_conv_shape(graph, node)
    if shape is None or _depthwise(node, shape):
        return
    groups = int(attribute(node, "group", 1))
    odd = [count for count in (shape[0], shape[1] * groups) if count % 16 and count > 4]
    if odd:
        message = f"{odd[0]} channels: int8 kernels compute in blocks of 16 or 32, the rest is padding"
        yield _warning("P9", node, message, "prune with `regular: 16` or 32")


def _p10(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    shape = _quantised_conv_shape(graph, node)
    if shape is not None and _depthwise(node, shape):
        yield _warning(
            "P10", node, "a depthwise convolution is often slower in int8 than in fp16", "measure it in float"
        )


def _quantised_conv_shape(graph: _Checked, node: onnx.NodeProto) -> tuple[int, ...] | None:
    source = graph.dequantised(node.input[1]) if node.op_type == "Conv" else None
    weight = graph.weight_of(source) if source is not None else None
    return None if weight is None else weight.shape


def _depthwise(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    return shape[1] == 1 and int(attribute(node, "group", 1)) > 1


def _p11(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    scales = {reader.input[1] for reader in graph.readers(node) if reader.op_type == QUANTIZE}
    values = {float(array.ravel()[0]) for name in scales if (array := graph.constant(name)) is not None}
    if len(values) > 1:
        yield _warning("P11", node, f"its output is quantised with {len(values)} scales", "share one Q/DQ pair")


def _p12(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type == "BatchNormalization":
        yield _warning("P12", node, "a batch norm in the deployed graph", "fold it (`bn_fuse`) before export")


def _o1(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    if node.op_type != "Conv" or graph.dequantised(node.input[1]) is None:
        return
    if [reader.op_type for reader in graph.readers(node)] != [QUANTIZE]:
        message = "quantised weights, but no Q right behind it: it runs in float and unpacks its weights every time"
        yield _warning("O1", node, message, "quantise its output, with the activation left to the Q's saturation")


def _o2(graph: _Checked, node: onnx.NodeProto) -> Iterator[Violation]:
    zero_point = graph.constant(node.input[2]) if node.op_type == QUANTIZE and len(node.input) > 2 else None
    if zero_point is not None and zero_point.dtype == np.int8:
        message = "an int8 activation; the fast kernels of ONNX Runtime take uint8 activations and int8 weights"
        yield _warning("O2", node, message, "write uint8 with zero point 128")


def _error(rule: str, node: onnx.NodeProto, message: str, fix: str) -> Violation:
    return Violation(rule, "error", node.name or node.output[0], message, fix)


def _warning(rule: str, node: onnx.NodeProto, message: str, fix: str) -> Violation:
    return Violation(rule, "warning", node.name or node.output[0], message, fix)


_Rule = Callable[[_Checked, onnx.NodeProto], Iterator[Violation]]
_RULES: dict[str, tuple[_Rule, ...]] = {
    "tensorrt": (_e1, _e2, _e3, _e4, _e5, _e6, _e7, _e8, _p1, _p2, _p3, _p4, _p6, _p9, _p10, _p11, _p12),
    "onnxruntime": (_e3, _e4, _p11, _p12, _o1, _o2),
}
