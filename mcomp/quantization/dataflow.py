"""What the graph says about a tensor: where its values come from, and whether they can be negative."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from mcomp.quantization.quantizers.base import Quantizer

# Modules and calls whose output holds values of their input, unchanged: a quantiser commutes with them.
_MOVING_MODULES = (
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
_MOVING_CALLS = frozenset(
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

# Never negative, whatever goes in.
_POSITIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softplus)
_POSITIVE_CALLS = frozenset(
    {"relu", "relu_", "relu6", "sigmoid", "sigmoid_", "hardsigmoid", "softmax", "softplus", "abs", "square", "exp"}
)

# Never negative where no input is.
_KEEPING_MODULES = (
    *_MOVING_MODULES,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    Quantizer,  # every grid of ours is monotone and holds 0 or starts above it
)
_WITH_NUMBERS = frozenset({"add", "add_", "iadd", "mul", "mul_", "imul", "maximum", "pad"})
_KEEPING_CALLS = _MOVING_CALLS | {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum", "cat",
    "concat", "stack", *_WITH_NUMBERS,
}  # fmt: skip


def moves_values(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node only rearranges or selects values of its first input."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        upsampling = isinstance(module, nn.Upsample) and module.mode in ("nearest", "nearest-exact")
        return isinstance(module, _MOVING_MODULES) or type(module).__name__ == "StochasticDepth" or upsampling
    if node.op not in ("call_function", "call_method") or call_name(node) not in _MOVING_CALLS:
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


def is_nonnegative(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the graph proves that the tensor is never below 0."""
    return nonnegative_nodes(node.graph, modules)[node]


def nonnegative_nodes(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[fx.Node, bool]:
    """Of every node, whether the graph proves that its tensor is never below 0."""
    known: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        known[node] = _nonnegative(node, modules, known)
    return known


def _nonnegative(node: fx.Node, modules: dict[str, nn.Module], known: dict[fx.Node, bool]) -> bool:
    if moves_values(node, modules):  # sizes may be inputs too; the first one is the tensor
        return bool(node.all_input_nodes) and known[node.all_input_nodes[0]]
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, Quantizer) and module.relu:
            return True
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return bool(module.min_val >= 0)
        smooth = isinstance(module, nn.Upsample) and module.mode != "bicubic"
        keeps = isinstance(module, _KEEPING_MODULES) or smooth
        return isinstance(module, _POSITIVE_MODULES) or (keeps and all(known[each] for each in node.all_input_nodes))
    if node.op not in ("call_function", "call_method"):
        return False
    name = call_name(node)
    if name in ("hardtanh", "clamp", "clip"):
        low = node.kwargs.get("min_val", node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None))
        return isinstance(low, (int, float)) and low >= 0
    if name in _POSITIVE_CALLS:
        return True
    if name == "interpolate":
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode")
        keeps = str(mode) != "bicubic"
    else:
        keeps = name in _KEEPING_CALLS and not (name in _WITH_NUMBERS and _has_negative(node))
    return keeps and all(known[each] for each in node.all_input_nodes)


def _has_negative(node: fx.Node) -> bool:
    """Whether a plain number among the arguments is below 0."""
    return any(isinstance(value, (int, float)) and value < 0 for value in [*node.args, *node.kwargs.values()])


def call_name(node: fx.Node) -> str:
    """The bare name of the function or method that a node calls, without the dunder of an operator."""
    target: Any = node.target
    if target is operator.getitem:
        return "getitem"
    packet = getattr(target, "overloadpacket", None)  # of torch.ops
    if packet is not None:
        return str(packet.__name__)
    return target if isinstance(target, str) else getattr(target, "__name__", "")
