"""What a rule is, what breaking it says, and how rules are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import onnx

from mcomp.deploy.qdq.checked_graph import CheckedGraph

Target = Literal["tensorrt", "onnxruntime", "openvino"]
TARGETS: tuple[Target, ...] = ("tensorrt", "onnxruntime", "openvino")
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: ``E1`` … ``E8``, ``P1`` … ``P13``, ``G1`` …, ``O1`` …; `mcomp help E1` explains it.
        severity: ``error`` where the runtime refuses the file or computes something else, else ``warning``.
        node: name of the node.
        message: what is wrong, with numbers.
        fix: what to do about it.
        detail: what is so at this node alone, where nodes differ in it.
    """

    rule: str
    severity: Severity
    node: str
    message: str
    fix: str
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields, for JSON."""
        return asdict(self)


#: What a check function yields: what is wrong with the node, what to do about it, and what is so at this node alone.
Fault = tuple[str, str] | tuple[str, str, str]
Check = Callable[[CheckedGraph, onnx.NodeProto], Iterator[Fault]]


@dataclass(frozen=True)
class Rule:
    """One rule: its id, what breaking it means, and for which targets it holds."""

    id: str
    severity: Severity
    check: Check
    targets: tuple[Target, ...]

    def violations(self, graph: CheckedGraph, node: onnx.NodeProto) -> Iterator[Violation]:
        """What ``node`` breaks."""
        for message, fix, *detail in self.check(graph, node):
            yield Violation(self.id, self.severity, node.name or node.output[0], message, fix, *detail)


#: By id, in the order of declaration.
RULES: dict[str, Rule] = {}


def rule(name: str, severity: Severity, *targets: Target) -> Callable[[Check], Check]:
    """Declare a rule: ``check(graph, node)`` yields ``(message, fix)`` for every fault of one node."""

    def declare(check: Check) -> Check:
        assert name not in RULES, name
        RULES[name] = Rule(name, severity, check, targets or TARGETS)
        return check

    return declare
