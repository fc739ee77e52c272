"""Check any ONNX file, ours or not, against the rules of one target."""

from __future__ import annotations

from pathlib import Path

import onnx

from mcomp.deploy.qdq import cpu_rules, fusion_rules, general_rules, importer_rules
from mcomp.deploy.qdq.checked_graph import CheckedGraph, is_pair
from mcomp.deploy.qdq.rules import RULES, TARGETS, Target, Violation
from mcomp.errors import UsageError

#: Imported for the rules that they declare.
DECLARED_IN = (importer_rules, fusion_rules, general_rules, cpu_rules)


def check_qdq(path: str | Path, target: Target = "tensorrt") -> list[Violation]:
    """Every rule of ``target`` that the file breaks; errors first, then warnings, each in the graph's order.

    Graphs inside ``If``, ``Loop`` and ``Scan`` are checked too.

    Args:
        path: an ONNX file; external data lies beside it.
        target: ``tensorrt``, ``onnxruntime`` or ``openvino``.

    Raises:
        UsageError: no such target (MC432), or the file is no ONNX model (MC443).
    """
    if target not in TARGETS:
        raise UsageError(f"no rules for `{target}`", code="MC432", hint=f"targets: {', '.join(TARGETS)}")
    model = load_onnx(Path(path))
    found: list[Violation] = []
    pairs = 0
    for graph in CheckedGraph(model, model.graph).graphs():
        pairs += sum(is_pair(node) for node in graph.nodes)
        found += [
            violation
            for each in RULES.values()
            if target in each.targets
            for node in graph.nodes
            for violation in each.violations(graph, node)
        ]
    if not pairs and not found:
        message = f"none of its {len(model.graph.node)} nodes is Q or DQ: the whole network runs in float"
        found.append(Violation("G5", "warning", Path(path).name, message, "quantise the model before exporting it"))
    return sorted(found, key=lambda violation: violation.severity != "error")


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of a file, with its external data.

    Raises:
        UsageError: MC443, there is none, or it cannot be read.
    """
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UsageError(f"no file `{missing}`", code="MC443", hint="external data must lie beside it") from None
    except Exception as error:  # protobuf raises types of its own per implementation
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"`{path}` is not an ONNX model", code="MC443", why=why) from error
    if not model.graph.node:
        raise UsageError(f"`{path}` is not an ONNX model, or an empty one", code="MC443", hint="export it again")
    return model
