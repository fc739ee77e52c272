"""Edit an ONNX graph by tensor names: who makes a tensor, who reads it, what is left over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mcomp.errors import StageError


class OnnxGraph:
    """A mutable view of ``model.graph``; call :meth:`finish` to write the edits back."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self._taken: dict[str, int] = {}
        self.inputs = {value.name for value in model.graph.input} - set(self.initializers)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes ``tensor``; None for inputs and initialisers."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read ``tensor``."""
        return [node for node in self.nodes if tensor in reads(node)]

    def read_once(self, tensor: str) -> bool:
        """True if exactly one node reads ``tensor`` and it is no output of the graph."""
        return tensor not in self.outputs and sum(reads(node).count(tensor) for node in self.nodes) == 1

    def array(self, tensor: str) -> NDArray[Any] | None:
        """The value of a constant tensor, else None."""
        if tensor in self.initializers:
            return numpy_helper.to_array(self.initializers[tensor])
        node = self.producer(tensor)
        if node is not None and node.op_type == "Constant":
            return constant_value(node)
        return None

    def add_initializer(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; a name that is taken gets a number."""
        unique, count = name, 1
        while unique in self.initializers:
            unique, count = f"{name}_{count}", count + 1
        self.initializers[unique] = numpy_helper.from_array(np.asarray(value, order="C"), unique)
        return unique

    def shared(self, name: str, value: NDArray[Any]) -> str:
        """A constant by name, made at its first use."""
        return name if name in self.initializers else self.add_initializer(name, value)

    def unique(self, prefix: str) -> str:
        """``prefix``, or with a number where it was asked for before."""
        count = self._taken[prefix] = self._taken.get(prefix, -1) + 1
        return f"{prefix}.repeat{count}" if count else prefix

    def add_node(self, op_type: str, inputs: Iterable[str], output: str, **attributes: Any) -> onnx.NodeProto:
        """Append a node named after its output; order is put right by :meth:`finish`."""
        node = helper.make_node(op_type, list(inputs), [output], name=f"{output}/{op_type}", **attributes)
        self.nodes.append(node)
        return node

    def remove(self, node: onnx.NodeProto) -> None:
        """Take ``node`` out; its output must have no reader left."""
        self.nodes = [other for other in self.nodes if other is not node]

    def redirect(self, old: str, new: str, keep: onnx.NodeProto | None = None) -> None:
        """Let every reader of ``old`` (but ``keep``) read ``new``; an output of the graph keeps its name."""
        for node in self.nodes:
            if node is not keep:
                for index, name in enumerate(node.input):
                    if name == old:
                        node.input[index] = new
        if old in self.outputs:
            self.add_node("Identity", [new], old)

    def drop_identities(self) -> None:
        """Remove ``Identity`` and ``Dropout`` nodes.

        Exporters share equal initialisers through the first, where runtimes want constants; and write the second of
        rate 0 as in training, which OpenVINO refuses.
        """
        for node in [each for each in self.nodes if each.op_type in ("Identity", "Dropout")]:
            if node.output[0] not in self.outputs:
                self.remove(node)
                self.redirect(node.output[0], node.input[0])
            elif node.op_type == "Dropout":  # its name is the output's
                self.remove(node)
                self.add_node("Identity", [node.input[0]], node.output[0])

    def finish(self) -> onnx.ModelProto:
        """Drop what no output needs, sort, and write back to the model."""
        self.drop_unread()
        graph = self.model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._sorted())
        used = {name for node in graph.node for name in reads(node)} | self.outputs
        graph.initializer.extend(tensor for name, tensor in self.initializers.items() if name in used)
        kept = [value for value in graph.input if value.name not in self.initializers]
        del graph.input[:]
        graph.input.extend(kept)
        return self.model

    def drop_unread(self) -> None:
        """Remove every node that no output of the graph needs."""
        while True:
            read = {name for node in self.nodes for name in reads(node)} | self.outputs
            alive = [node for node in self.nodes if any(name in read for name in node.output)]
            if len(alive) == len(self.nodes):
                return
            self.nodes = alive

    def _sorted(self) -> list[onnx.NodeProto]:
        known = {"", *self.inputs, *self.initializers}
        waiting, done = list(self.nodes), []
        while waiting:
            ready = [node for node in waiting if all(name in known for name in node.input)]
            if not ready:
                raise StageError(
                    f"the rewritten graph has a cycle or a missing tensor at node `{waiting[0].name}`", code="MC433"
                )
            done += ready
            known.update(name for node in ready for name in node.output)
            chosen = {id(node) for node in ready}
            waiting = [node for node in waiting if id(node) not in chosen]
        return done


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, those inside its subgraphs included."""
    inner = [name for entry in node.attribute if entry.HasField("g") for child in entry.g.node for name in reads(child)]
    return [*node.input, *inner]


def constant_value(node: onnx.NodeProto) -> NDArray[Any] | None:
    """The value of a ``Constant`` node that holds a tensor or numbers."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or ``default``."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default
