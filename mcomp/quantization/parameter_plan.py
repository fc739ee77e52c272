"""The weight that a function reads: which parameter it is, and where its output channels are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from mcomp.quantization.dataflow import call_name, moves_values
from mcomp.quantization.modules import attribute

#: Leave every axis where it is, so that a grid per channel may stand in front of them.
_KEEP_AXES = frozenset({"chunk", "split", "getitem", "slice", "narrow", "contiguous", "alias", "detach", "clone"})
_SWAP_AXES = frozenset({"t", "transpose", "swapaxes", "adjoint"})


@dataclass
class ParameterPlan:
    """A weight to quantise behind ``node``.

    Attributes:
        name: what the function that reads it is called: the parameter's name, less ``.weight``.
        path: of the parameter; empty for a weight that is computed.
        node: where its values are there.
        axis: of the output channels; None for one grid.
        bits: of the grid, once they are decided.
    """

    name: str
    path: str
    node: fx.Node
    axis: int | None
    bits: int = 0


def plan_parameter(weight: fx.Node, axis: int, traced: fx.GraphModule, modules: dict[str, nn.Module]) -> ParameterPlan:
    """The weight that a function reads as ``weight``, with its output channels along ``axis`` there."""
    node, swaps = weight, 0
    while node.op != "get_attr":
        inputs = node.all_input_nodes
        if node.op == "call_module" or not moves_values(node, modules) or len(inputs) != 1:
            break
        name = call_name(node)
        if name not in _KEEP_AXES | _SWAP_AXES:
            break
        swaps += name in _SWAP_AXES
        node = inputs[0]
    if node.op != "get_attr":  # computed, or reshaped: the grid follows
        return ParameterPlan(weight.name, "", weight, axis)
    path = str(node.target)
    dims = attribute(traced, path).dim()
    kept: int | None = axis % dims if dims > 1 else None
    if swaps and kept is not None:
        kept = (kept + swaps) % 2 if dims == 2 else None
    first = next(each for each in node.graph.nodes if each.op == "get_attr" and each.target == path)
    return ParameterPlan(path.removesuffix(".weight"), path, first, kept)
