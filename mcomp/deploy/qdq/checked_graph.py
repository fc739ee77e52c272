"""An ONNX graph with constant-time lookups, as the rules ask for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mcomp.deploy.onnx_graph import attribute, constant_value, reads
from mcomp.deploy.operator_facts import commutes

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class CheckedGraph:
    """One graph of a model: the main one, or that inside an ``If`` or ``Loop``, which sees the names around it."""

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, around: CheckedGraph | None = None) -> None:
        self.model, self.around = model, around
        self.nodes = list(graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - set(self.initializers)
        self.outputs = {value.name for value in graph.output}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in reads(node):
                self._readers.setdefault(name, []).append(node)
        self._constants: dict[str, NDArray[Any] | None] = {}

    def graphs(self) -> Iterator[CheckedGraph]:
        """This graph, then those inside its nodes, at any depth."""
        yield self
        for node in self.nodes:
            for entry in node.attribute:
                for inner in [entry.g] if entry.HasField("g") else entry.graphs:
                    yield from CheckedGraph(self.model, inner, self).graphs()

    @cached_property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes ``tensor``; None for inputs and initialisers."""
        found = self._makers.get(tensor)
        return self.around.maker(tensor) if found is None and self.around is not None else found

    def made_by(self, tensor: str, *op_types: str) -> bool:
        """Whether a node of one of these types makes ``tensor``."""
        maker = self.maker(tensor)
        return maker is not None and maker.op_type in op_types

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that read what ``node`` makes, one entry per tensor that they read."""
        return [reader for name in node.output for reader in self._readers.get(name, [])]

    def initializer(self, tensor: str) -> onnx.TensorProto | None:
        """The stored tensor of this name."""
        found = self.initializers.get(tensor)
        return self.around.initializer(tensor) if found is None and self.around is not None else found

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of a tensor that no input decides about, read once."""
        if tensor not in self._constants:
            stored, maker = self.initializer(tensor), self.maker(tensor)
            if maker is not None and maker.op_type == "Identity":  # exporters share equal constants through it
                self._constants[tensor] = self.constant(maker.input[0])
            elif stored is not None:
                self._constants[tensor] = numpy_helper.to_array(stored)
            else:
                made = maker is not None and maker.op_type == "Constant"
                self._constants[tensor] = constant_value(maker) if made and maker is not None else None
        return self._constants[tensor]

    def dequantised(self, tensor: str) -> onnx.NodeProto | None:
        """The ``DequantizeLinear`` behind ``tensor``, through operations that only move data."""
        maker = self.maker(tensor)
        while maker is not None and commutes(maker):
            maker = self.maker(maker.input[0])
        return maker if maker is not None and maker.op_type == DEQUANTIZE else None

    def behind(self, tensor: str, op_types: Collection[str]) -> onnx.NodeProto | None:
        """What makes ``tensor``, first inputs of nodes of these types being looked through."""
        maker = self.maker(tensor)
        while maker is not None and maker.op_type in op_types:
            maker = self.maker(maker.input[0])
        return maker

    def weight_of(self, dequantize: onnx.NodeProto) -> NDArray[Any] | None:
        """The constant that a ``DequantizeLinear`` reads, directly or through ``QuantizeLinear``."""
        source = dequantize.input[0]
        maker = self.maker(source)
        if maker is not None and maker.op_type == QUANTIZE:
            source = maker.input[0]
        return self.constant(source)

    def channel_scales(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """The scales of a Q or DQ node that has several, one per entry of its axis; None for one, and for blocks."""
        scale = self.scale(node)
        return None if scale is None or scale.size == 1 or attribute(node, "block_size", 0) else scale

    def scale(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """The scale of a Q or DQ node, where it is constant."""
        return self.constant(node.input[1]) if is_pair(node) else None

    def zero_point(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """The zero point of a Q or DQ node, where one is given and constant."""
        given = is_pair(node) and len(node.input) > 2 and node.input[2]
        return self.constant(node.input[2]) if given else None


def is_pair(node: onnx.NodeProto) -> bool:
    """Whether this is ONNX's Q or DQ, or ONNX Runtime's of the same name, which takes more types."""
    return node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain in ("", "ai.onnx", "com.microsoft")


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that its output channels lie on."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1)
