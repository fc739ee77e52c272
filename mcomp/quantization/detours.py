"""Leading single readers of a tensor past what everyone else reads: past a ReLU, or past a quantiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn
from torch.nn import functional as F

from mcomp.quantization.aliases import in_place
from mcomp.quantization.dataflow import call_name


@dataclass(frozen=True)
class Detour:
    """A reader that is to read something else than ``origin``.

    Attributes:
        reader: the node of a layer or function.
        argument: what it reads now.
        origin: where the values of ``argument`` were made; between the two stand only moves of values.
    """

    reader: fx.Node
    argument: fx.Node
    origin: fx.Node


class Detours:
    """Takes detours in one graph; moves that others go on reading are repeated, once for all detours to one tensor."""

    def __init__(self) -> None:
        self.copies: dict[tuple[fx.Node, fx.Node], fx.Node] = {}

    def take(self, detour: Detour, instead: fx.Node) -> None:
        """Let the reader read ``instead``, moved as ``origin`` was; nodes that nobody reads any more are erased."""
        path, each = [], detour.argument
        while each is not detour.origin:
            path.append(each)
            each = each.all_input_nodes[0]
        if path and all(len(move.users) == 1 for move in path):
            path[-1].replace_input_with(detour.origin, instead)
            return
        read, before = instead, detour.origin
        for move in reversed(path):
            read = self._copy(move, before, read)
            before = move
        detour.reader.replace_input_with(detour.argument, read)
        for move in path:
            if not move.users:
                move.graph.erase_node(move)

    def _copy(self, move: fx.Node, before: fx.Node, read: fx.Node) -> fx.Node:
        if (move, read) not in self.copies:
            with move.graph.inserting_after(move):
                self.copies[move, read] = move.graph.node_copy(move, lambda node: read if node is before else node)
        return self.copies[move, read]


def relu_kind(relu: fx.Node, modules: dict[str, nn.Module]) -> str:
    """``relu`` or ``relu6``."""
    if relu.op == "call_module":
        return "relu6" if isinstance(modules[str(relu.target)], nn.ReLU6) else "relu"
    return "relu6" if call_name(relu) == "relu6" else "relu"


def write_elsewhere(relu: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Make a ReLU in place one that leaves its input as it is, for another reads that now."""
    if in_place(relu, modules):
        target = F.relu6 if relu_kind(relu, modules) == "relu6" else F.relu
        relu.op, relu.target, relu.args, relu.kwargs = "call_function", target, (relu.all_input_nodes[0],), {}
