"""Products of a float tensor with an integer weight, which some runtimes compute with both quantised, unasked."""

from __future__ import annotations

from mcomp.deploy.lowering import Lowering
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.profiles.base import Profile
from mcomp.errors import plural

#: Profile to the layers that its runtime does this to, and to what tells it not to.
_REQUANTISED = {
    "onnxruntime": (frozenset({"MatMul"}), "`session.qdq_matmulnbits_accuracy_level` is 1"),
    "openvino": (frozenset({"Gemm", "MatMul"}), "`DYNAMIC_QUANTIZATION_GROUP_SIZE` is 0"),
}


def note_requantised(graph: OnnxGraph, target: Profile, lowering: Lowering) -> None:
    """Say of how many layers this is true, and what a session has to be told (ONNX Runtime 1.31, OpenVINO 2026.4)."""
    layers, setting = _REQUANTISED.get(target.name, (frozenset[str](), ""))
    count = sum(
        node.op_type in layers and _unpacked(graph, node.input[1]) and not _unpacked(graph, node.input[0], held=True)
        for node in graph.nodes
    )
    if count:
        lowering.notes.append(
            f"{plural(count, 'product')} of a tensor without constant range and an integer weight: the runtime "
            f"quantises the tensor, too, unless {setting}, as in the sessions that mcomp makes"
        )


def _unpacked(graph: OnnxGraph, tensor: str, *, held: bool = False) -> bool:
    """Whether ``DequantizeLinear`` makes a tensor; ``held``: with a scale that is a constant."""
    maker = graph.producer(tensor)
    if maker is None or maker.op_type != "DequantizeLinear":
        return False
    return not held or graph.array(maker.input[1]) is not None
