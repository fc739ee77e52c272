"""The weight that a function reads: which parameter it is, and where its output channels are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from mcomp.quantization.dataflow import call_name, moves_values
from mcomp.quantization.layer_choice import Choice
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
        choice: what it gets, once that is decided.
    """

    name: str
    path: str
    node: fx.Node
    axis: int | None
    choice: Choice | None = None

    def paths(self, modules: dict[str, nn.Module]) -> list[str]:
        """Names of all parameters and buffers that the weight is made of."""
        found, waiting, seen = [], [self.node], {self.node}
        while waiting:
            node = waiting.pop()
            if node.op == "get_attr":
                found.append(str(node.target))
            elif node.op == "call_module":  # a parametrisation
                module = modules[str(node.target)]
                found += [f"{node.target}.{name}" for name, _ in module.named_parameters()]
            fresh = [each for each in node.all_input_nodes if each not in seen]
            seen.update(fresh)
            waiting += fresh
        return found


def plan_parameter(weight: fx.Node, axis: int, traced: fx.GraphModule, modules: dict[str, nn.Module]) -> ParameterPlan:
    """The weight that a function reads as ``weight``, with its output channels along ``axis`` there."""
    node, swaps = weight, 0
    while node.op != "get_attr":
        inputs = node.all_input_nodes
        name = "" if node.op == "call_module" else call_name(node)
        moves = name == "getitem" or moves_values(node, modules)  # an entry of a parameter is a part of it
        if name not in _KEEP_AXES | _SWAP_AXES or not moves or len(inputs) != 1:
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
