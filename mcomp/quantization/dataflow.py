"""What the graph says about a tensor: where its values come from."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

# Modules and calls whose output holds values of their input, unchanged: a quantiser commutes with them.
MOVING_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.ChannelShuffle,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.UpsamplingNearest2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
MOVING_CALLS = frozenset(
    {
        "flatten", "reshape", "view", "permute", "transpose", "swapaxes", "movedim", "contiguous", "squeeze",
        "unsqueeze", "channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "max_pool1d",
        "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "chunk", "split", "getitem",
        "narrow", "expand", "repeat", "flip", "roll", "clone", "stochastic_depth", "select", "slice", "alias",
        "detach", "split_with_sizes", "_unsafe_view", "pack_padded_sequence", "dropout", "t", "adjoint", "unflatten",
    }
)  # fmt: skip

_SPLITTING_CALLS = frozenset({"chunk", "split", "split_with_sizes"})
_PARTS = frozenset({"getitem", "select"})


def moves_values(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node only rearranges or selects values of its first input."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        upsampling = isinstance(module, nn.Upsample) and module.mode in ("nearest", "nearest-exact")
        return isinstance(module, MOVING_MODULES) or type(module).__name__ == "StochasticDepth" or upsampling
    if node.op not in ("call_function", "call_method") or call_name(node) not in MOVING_CALLS:
        return False
    return call_name(node) != "getitem" or _selects_values(node)


def _selects_values(node: fx.Node) -> bool:
    """Whether an indexing takes part of a tensor; an integer index may as well take one of several results."""
    holder, index = node.args
    return not isinstance(index, int) or (isinstance(holder, fx.Node) and call_name(holder) in _SPLITTING_CALLS)


def is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node is a plain ReLU or ReLU6, as a module or as a call."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (nn.ReLU, nn.ReLU6))
    return node.op in ("call_function", "call_method") and call_name(node) in ("relu", "relu_", "relu6")


def source(node: fx.Node, modules: dict[str, nn.Module], *, whole: bool = True) -> fx.Node:
    """The node that first made the values that arrive at ``node``.

    With ``whole`` false the way ends at a part of a tensor: queries, keys and values that one layer made
    are three tensors of three ranges.
    """
    while moves_values(node, modules) and node.all_input_nodes:
        if not whole and node.op != "call_module" and call_name(node) in _PARTS:
            break
        node = node.all_input_nodes[0]
    return node


def call_name(node: fx.Node) -> str:
    """The bare name of the function or method that a node calls, without the dunder of an operator."""
    target: Any = node.target
    if target is operator.getitem:
        return "getitem"
    packet = getattr(target, "overloadpacket", None)  # of torch.ops
    if packet is not None:
        return str(packet.__name__)
    return target if isinstance(target, str) else getattr(target, "__name__", "")
