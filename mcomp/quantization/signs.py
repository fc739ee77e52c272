"""Which tensors of a graph are never below 0: those need no sign, which doubles their levels."""

from __future__ import annotations

from torch import fx, nn

from mcomp.quantization.dataflow import MOVING_CALLS, MOVING_MODULES, call_name, moves_values
from mcomp.quantization.quantizers.base import Quantizer

# Whatever goes in. The last line is of sizes, which other calls may read beside a tensor.
_POSITIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softplus)
_POSITIVE_CALLS = frozenset(
    {
        "relu", "relu_", "relu6", "sigmoid", "sigmoid_", "hardsigmoid", "softmax", "softplus", "abs", "square", "exp",
        "size", "numel", "dim", "sym_size",
    }
)  # fmt: skip

# Where no input is. Padding of a max pool is -inf, which a window never holds alone.
_KEEPING_MODULES = (
    *MOVING_MODULES,
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
_WITH_NUMBERS = frozenset(
    {
        "add", "add_", "iadd", "mul", "mul_", "imul", "div", "div_", "truediv", "itruediv", "floordiv", "minimum",
        "pad", "fmod", "mod",
    }
)  # fmt: skip
_WITH_INDICES = frozenset(
    f"{kind}max_pool{dims}d_with_indices" for kind in ("", "adaptive_", "fractional_") for dims in (1, 2, 3)
)
_KEEPING_CALLS = MOVING_CALLS | {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool3d", *_WITH_INDICES, "mean", "sum", "amax", "amin", "max", "min",
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "upsample", "interpolate",
    "upsample_nearest", "upsample_bilinear", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "_upsample_bilinear2d_aa", *_WITH_NUMBERS,
}  # fmt: skip


def nonnegative_nodes(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[fx.Node, bool]:
    """Of every node, whether the graph proves that its tensor, or each of its tensors, is never below 0."""
    known: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        known[node] = _nonnegative(node, modules, known)
    return known


def _nonnegative(node: fx.Node, modules: dict[str, nn.Module], known: dict[fx.Node, bool]) -> bool:
    inputs = [known[each] for each in node.all_input_nodes]
    if moves_values(node, modules):  # sizes may be inputs too; the first one is the tensor
        return bool(inputs) and inputs[0]
    if node.op == "call_module":
        return _of_module(modules[str(node.target)], inputs)
    if node.op not in ("call_function", "call_method"):
        return False
    name = call_name(node)
    if name in ("hardtanh", "clamp", "clip", "clamp_min", "clamp_min_"):
        low = node.kwargs.get("min_val", node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None))
        return isinstance(low, (int, float)) and bool(low >= 0)
    if name in ("pow", "pow_", "ipow"):
        power = node.args[1] if len(node.args) > 1 else node.kwargs.get("exponent")
        even = isinstance(power, int) and power % 2 == 0
        return bool(even) or (isinstance(power, (int, float)) and all(inputs))
    if name == "getattr":
        return str(node.args[1]) == "shape"
    if name == "getitem":  # one of several results, or one size
        return bool(inputs) and inputs[0]
    if name in ("max", "maximum") and len(inputs) > 1:
        return any(inputs)
    if name in _POSITIVE_CALLS:
        return True
    if name == "interpolate":
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode")
        keeps = str(mode) != "bicubic"
    else:
        keeps = name in _KEEPING_CALLS and not (name in _WITH_NUMBERS and _has_negative(node))
    return keeps and bool(inputs) and all(inputs)


def _of_module(module: nn.Module, inputs: list[bool]) -> bool:
    if isinstance(module, Quantizer) and module.relu:
        return True
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return bool(module.min_val >= 0)
    smooth = isinstance(module, nn.Upsample) and module.mode != "bicubic"
    keeps = isinstance(module, _KEEPING_MODULES) or smooth
    return isinstance(module, _POSITIVE_MODULES) or (keeps and all(inputs))


def _has_negative(node: fx.Node) -> bool:
    """Whether a plain number among the arguments is below 0."""
    return any(isinstance(value, (int, float)) and value < 0 for value in [*node.args, *node.kwargs.values()])
