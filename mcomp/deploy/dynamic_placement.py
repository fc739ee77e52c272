"""Activations quantised at run time as ONNX has them: ``DynamicQuantizeLinear`` and what unpacks its integers."""

from __future__ import annotations

import onnx

from mcomp.deploy.integer_form import ActivationSite
from mcomp.deploy.lowering import Lowering, TensorLowering
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.profiles.base import Profile
from mcomp.errors import StageError


def place_dynamic(
    graph: OnnxGraph, node: onnx.NodeProto, site: ActivationSite, target: Profile, lowering: Lowering
) -> None:
    """Replace the marker ``node`` by ``DynamicQuantizeLinear`` and ``DequantizeLinear``, and add a row to the table.

    Raises:
        StageError: MC431, the target takes constant scales only.
    """
    if not target.asymmetric:
        raise StageError(
            f"the range of `{site.name}` is found anew for each tensor",
            code="MC431",
            why=f"`{target.name}` takes constant scales only",
            hint="use the profile `onnxruntime`, or another scheme for activations",
        )
    name = graph.unique(site.name)
    parts = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
    made = graph.add_node("DynamicQuantizeLinear", [node.input[0]], parts[0])
    made.output.extend(parts[1:])
    output = graph.add_node("DequantizeLinear", parts, f"{name}_dequantized").output[0]
    graph.remove(node)
    graph.redirect(node.output[0], output)
    if all(row.name != site.name for row in lowering.tensors):
        why = "the range of each tensor"
        lowering.tensors.append(TensorLowering(site.name, "activation", site.bits, [], 0, "uint8", why=why))
