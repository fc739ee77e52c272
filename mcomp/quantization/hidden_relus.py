"""ReLUs that a sign further on makes pointless: behind them everything is positive, and its sign says nothing.

A binary activation takes the place of the ReLU in front of it. Where an average or a concatenation stands between the
two, the ReLU has to go all the same: the sign of an average of positive values is 1 everywhere.
"""

from __future__ import annotations

from torch import fx, nn

from mcomp.quantization.dataflow import call_name, is_relu, moves_values

_AVERAGING = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_LINEAR_CALLS = frozenset(
    {
        "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum", "cat",
        "concat", "stack", "add", "add_", "iadd", "interpolate",
    }
)  # fmt: skip


def hidden_relus(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The ReLUs from which ``node`` has its values through operations that keep signs.

    One that anything else reads too is not among them.
    """
    modules = dict(traced.named_modules(remove_duplicate=False))
    return [relu for relu in _relus(node, modules) if len(relu.users) == 1]


def drop_relus(relus: list[fx.Node]) -> None:
    """Remove them from their graph."""
    for relu in relus:
        relu.replace_all_uses_with(relu.all_input_nodes[0])
        relu.graph.erase_node(relu)


def _relus(node: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each is not node and is_relu(each, modules):
            found[each] = None
        elif each is node or len(each.users) == 1:
            waiting += each.all_input_nodes if _keeps_signs(each, modules) else []
    return list(found)


def _keeps_signs(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether positive values come from positive ones alone, and others from others."""
    if moves_values(node, modules):
        return True
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _AVERAGING)
    return node.op in ("call_function", "call_method") and call_name(node) in _LINEAR_CALLS
