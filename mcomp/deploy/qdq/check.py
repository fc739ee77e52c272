"""Check any ONNX file, ours or not, against the rules of one target."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.operator_facts import COMMUTING
from mcomp.deploy.qdq import cpu_rules, fusion_rules, general_rules, importer_rules
from mcomp.deploy.qdq.checked_graph import CheckedGraph, is_pair
from mcomp.deploy.qdq.rules import RULES, TARGETS, Target, Violation
from mcomp.errors import UsageError

#: Imported for the rules that they declare.
DECLARED_IN = (importer_rules, fusion_rules, general_rules, cpu_rules)


_INTEGER_OPERATORS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "MatMulNBits"})


def computes_with_integers(node: onnx.NodeProto) -> bool:
    """Whether an operator is quantised without Q and DQ, as in files of the form QOperator."""
    return node.op_type in _INTEGER_OPERATORS or node.op_type.startswith("QLinear")


def check_qdq(path: str | Path, target: Target = "tensorrt") -> list[Violation]:
    """Every rule of ``target`` that the file breaks; errors first, then warnings, each in the graph's order.

    Graphs inside ``If``, ``Loop`` and ``Scan`` are checked too.

    Args:
        path: an ONNX file; external data lies beside it.
        target: ``tensorrt``, ``onnxruntime`` or ``openvino``.

    Raises:
        UsageError: no such target (MC432), no path (MC445), or the file is no ONNX model (MC443).
    """
    place = checked_path(path)
    if target not in TARGETS:
        raise UsageError(f"no rules for `{target}`", code="MC432", hint=f"targets: {', '.join(TARGETS)}")
    model = load_onnx(place)
    found: list[Violation] = []
    pairs = 0
    for graph in CheckedGraph(model, model.graph).graphs():
        pairs += sum(is_pair(node) or computes_with_integers(node) for node in graph.nodes)
        found += [
            violation
            for each in RULES.values()
            if target in each.targets
            for node in graph.nodes
            for violation in each.violations(graph, node)
        ]
    if not pairs and not found:
        message = f"none of its {len(model.graph.node)} nodes computes with integers: the whole network runs in float"
        found.append(Violation("G5", "warning", place.name, message, "quantise the model before exporting it"))
    return sorted(found, key=lambda violation: violation.severity != "error")


def integer_operators(path: str | Path) -> dict[str, int]:
    """How many operators of a file compute with integers themselves; rules about Q and DQ say nothing of them.

    Raises:
        UsageError: as :func:`check_qdq`.
    """
    model = load_onnx(checked_path(path))
    graphs = CheckedGraph(model, model.graph).graphs()
    return dict(Counter(node.op_type for graph in graphs for node in graph.nodes if computes_with_integers(node)))


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of a file, with its external data; every node has the inputs that its operator needs.

    Raises:
        UsageError: MC443, there is none, it cannot be read, or it is no graph.
    """
    hint = "export it again"
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UsageError(f"no file `{missing}`", code="MC443", hint="external data must lie beside it") from None
    except Exception as error:  # protobuf raises types of its own per implementation
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, onnx.checker.ValidationError):  # of where external data lies
            raise UsageError(
                f"the external data of `{path}` cannot be read", code="MC443", why=why, hint="put its file beside it"
            ) from None
        raise UsageError(f"`{path}` is not an ONNX model", code="MC443", why=why, hint=hint) from error
    if not model.graph.node:
        raise UsageError(f"`{path}` is not an ONNX model, or an empty one", code="MC443", hint=hint)
    if fault := _malformed(model.graph, set()):
        raise UsageError(f"`{path}` holds no graph that can be run", code="MC443", why=fault, hint=hint)
    return model


#: The least number of inputs of what the rules look at.
_LEAST_INPUTS = {
    "QuantizeLinear": 2, "DequantizeLinear": 2, "Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2, "Add": 2,
}  # fmt: skip


def _malformed(graph: onnx.GraphProto, around: set[str]) -> str:
    """What keeps a graph from being followed: a node without an end, or one that reads what comes later."""
    known = {"", *around, *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        name = node.name or node.op_type
        least = _LEAST_INPUTS.get(node.op_type, 1 if node.op_type in COMMUTING | {"Resize"} else 0)
        if len(node.input) < least or not node.output:
            return f"node `{name}` has {len(node.input)} inputs and {len(node.output)} outputs"
    waiting = list(graph.node)
    while waiting:  # some writers leave the order to the reader
        ready = [node for node in waiting if all(name in known or name not in made for name in node.input)]
        if not ready:
            return f"nodes read each other in a circle, `{waiting[0].name or waiting[0].op_type}` among them"
        known |= {name for node in ready for name in node.output}
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]
    inner = [entry.g for node in graph.node for entry in node.attribute if entry.HasField("g")]
    return next((fault for each in inner if (fault := _malformed(each, known | made))), "")
