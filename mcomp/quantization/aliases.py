"""Which nodes of a graph are one memory under several names, and whether another name sees what is written there."""

from __future__ import annotations

from torch import fx, nn

from mcomp.quantization.dataflow import call_name, moves_values

# Of the calls that move values, those that always copy them.
_COPIES = frozenset(
    {
        "clone", "repeat", "flip", "roll", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "stochastic_depth", "channel_shuffle", "native_channel_shuffle",
    }
)  # fmt: skip
_COPYING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
# Views, or the tensor itself, that do not count as moves.
_VIEWS = frozenset(
    {
        "unbind", "ravel", "view_as", "expand_as", "reshape_as", "swapdims", "moveaxis", "tensor_split", "diagonal",
        "unfold", "getattr", "to", "type", "type_as", "float", "half", "double", "bfloat16", "getitem",
    }
)  # fmt: skip
_AUGMENTED = frozenset({"iadd", "isub", "imul", "itruediv", "ipow", "setitem"})


def in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node writes over the tensor that it reads first."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = call_name(node)
    positional = name in ("relu", "relu6") and len(node.args) > 1 and bool(node.args[1])
    written = (name.endswith("_") and not name.endswith("__")) or name in _AUGMENTED
    return written or positional or bool(node.kwargs.get("inplace"))


def is_free_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node is a plain ReLU that what reads its output may apply in its place: nobody sees it work."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if type(module) is not nn.ReLU or module._forward_hooks or module._forward_pre_hooks:
            return False
    elif node.op not in ("call_function", "call_method") or call_name(node) not in ("relu", "relu_"):
        return False
    return len(node.all_input_nodes) == 1 and not (in_place(node, modules) and seen_elsewhere(node, modules))


def seen_elsewhere(write: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether what ``write`` writes in place is read later under another name than its own output.

    Names are followed through views in both directions; parts of one tensor count as the whole.
    """
    if not write.all_input_nodes:
        return False
    return any(
        user > write and not _same_memory(user, modules)
        for name in _names(write.all_input_nodes[0], modules, {write})
        for user in name.users
        if user is not write
    )


def overwritten(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether anything writes in place into the tensor that ``node`` makes."""
    return any(in_place(user, modules) for name in _names(node, modules, set()) for user in name.users)


def _names(node: fx.Node, modules: dict[str, nn.Module], ended: set[fx.Node]) -> set[fx.Node]:
    """All nodes that may be the memory of ``node``; those of ``ended`` and what follows them are left out."""
    found, waiting = {node}, [node]
    while waiting:
        each = waiting.pop()
        near = each.all_input_nodes[:1] if _same_memory(each, modules) else []
        near += [user for user in each.users if user.all_input_nodes[0] is each and _same_memory(user, modules)]
        fresh = [one for one in near if one not in found and one not in ended]
        found.update(fresh)
        waiting += fresh
    return found


def _same_memory(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the output of the node is, or may be, the memory of its first input."""
    if not node.all_input_nodes:
        return False
    if in_place(node, modules):
        return True
    if node.op == "call_module":
        return moves_values(node, modules) and not isinstance(modules[str(node.target)], (*_COPYING, nn.Upsample))
    if node.op not in ("call_function", "call_method"):
        return False
    name = call_name(node)
    return name in _VIEWS or (name not in _COPIES and moves_values(node, modules))
