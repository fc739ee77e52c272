"""Which tensors that layers make an engine wants as integers: behind its kernels, or where it fuses layers."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from mcomp.quantization.config import OFF
from mcomp.quantization.dataflow import call_name, moves_values
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.signs import nonnegative_nodes
from mcomp.quantization.tracing import TracedModel

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_IDLE = (nn.Identity, nn.Dropout)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_POOL_CALLS = frozenset(
    {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"}
)
_RESIZE_CALLS = frozenset({"interpolate", "upsample", "upsample_nearest", "upsample_bilinear"})
_ADD_CALLS = frozenset({"add", "add_", "iadd"})
_JOIN_CALLS = frozenset({"add", "add_", "iadd", "mul", "mul_", "imul", "cat", "concat"})
#: What the saturation of an unsigned quantiser does as well, or nearly all of it.
_BOUNDS = (nn.ReLU, nn.ReLU6)
_BOUND_CALLS = frozenset({"relu", "relu_", "relu6"})
#: What a fusing engine computes at the end of a layer, or in one kernel with its neighbours.
_FUSED = (
    *_BOUNDS, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.GELU, nn.modules.batchnorm._BatchNorm,
)  # fmt: skip
_FUSED_CALLS = _BOUND_CALLS | _ADD_CALLS | {
    "cat", "concat", "leaky_relu", "leaky_relu_", "silu", "hardswish", "sigmoid", "hardsigmoid", "gelu",
}  # fmt: skip


def kernel_sites(model: TracedModel) -> list[tuple[fx.Node, bool]]:
    """Nodes whose output is to be quantised, each with whether it is proven never to be negative."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    nonnegative = nonnegative_nodes(model.graph, modules)
    integer: set[fx.Node] = set()
    found: list[tuple[fx.Node, bool]] = []
    for node in model.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Quantizer):
            integer |= {node} if module.bits == 8 else set()
        elif moves_values(node, modules) and node.all_input_nodes:
            integer |= {node} if node.all_input_nodes[0] in integer else set()
        elif _ends_in_integers(node, module, integer, modules):
            end = _behind_bound(node, modules)
            if not _quantised(end, modules):
                found.append((end, nonnegative[end]))
                integer.add(end)
    return found


def fusion_sites(model: TracedModel) -> list[fx.Node]:
    """Raw tensors that a fusing engine wants as integers, in the order of execution.

    They are the convolutions whose output meets that of a longer way in a sum, both of them raw, and what average pools
    and resizes read, if a layer of integers or a sum that fuses into one makes it. A resize that makes the network's
    output stays float.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    depth: dict[fx.Node, int] = {}
    fused: set[fx.Node] = set()
    found: list[fx.Node] = []
    for node in model.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        before = max((depth[each] for each in node.all_input_nodes), default=0)
        depth[node] = before + isinstance(layer, _CONVOLUTIONS)
        name = call_name(node) if node.op in ("call_function", "call_method") else ""
        if _integer_layer(layer) or (not fused.isdisjoint(node.all_input_nodes) and _fuses(layer, name)):
            fused.add(node)
        if name in _ADD_CALLS and len(node.all_input_nodes) == 2:
            makers = [_maker(each, modules) for each in node.all_input_nodes]
            raw = [each for each in makers if each.op == "call_module" and _integer_conv(modules[str(each.target)])]
            shorter = min(makers, key=lambda each: depth[each])
            found += [shorter] if len(raw) == 2 and shorter not in found else []
        elif _pools(layer, name) or (_resizes(layer, name) and not _makes_output(node, modules)):
            read = _maker(node.all_input_nodes[0], modules)
            found += [read] if read in fused and read not in found and not _quantised(read, modules) else []
    return found


def _pools(layer: nn.Module | None, name: str) -> bool:
    return isinstance(layer, _POOLS) or name in _POOL_CALLS - {"mean"}


def _resizes(layer: nn.Module | None, name: str) -> bool:
    return isinstance(layer, nn.Upsample) or name in _RESIZE_CALLS


def _fuses(layer: nn.Module | None, name: str) -> bool:
    """Whether an engine computes this at the end of the layer before it."""
    return isinstance(layer, (*_IDLE, *_FUSED)) or name in _FUSED_CALLS


def _maker(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """What made the tensor, before modules that do nothing."""
    while node.op == "call_module" and isinstance(modules[str(node.target)], _IDLE):
        node = node.all_input_nodes[0]
    return node


def _integer_conv(layer: nn.Module | None) -> bool:
    return isinstance(layer, _CONVOLUTIONS) and _integer_weight(layer)


def _integer_layer(layer: nn.Module | None) -> bool:
    return isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)) and _integer_weight(layer)


def _ends_in_integers(
    node: fx.Node, module: nn.Module | None, integer: set[fx.Node], modules: dict[str, nn.Module]
) -> bool:
    inputs = node.all_input_nodes
    if not inputs or any(each not in integer for each in inputs):
        return False
    if isinstance(module, _CONVOLUTIONS):
        return _integer_weight(module)
    name = call_name(node) if node.op in ("call_function", "call_method") else ""
    if isinstance(module, _POOLS) or name in _POOL_CALLS:
        return not _makes_output(node, modules)
    return name in _JOIN_CALLS and (len(inputs) > 1 or name in ("cat", "concat"))


def _integer_weight(layer: Any) -> bool:
    if isinstance(layer, FoldedLayer):
        return True
    return isinstance(layer, QuantizedWeight) and layer.weight_quantizer.bits != OFF


def _behind_bound(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """The ReLU that alone reads ``node``, or ``node``."""
    end = _behind_nothing(node, modules)
    if len(end.users) != 1:
        return node
    reader = next(iter(end.users))
    if reader.op == "call_module":
        bound = isinstance(modules[str(reader.target)], _BOUNDS)
    else:
        bound = reader.op in ("call_function", "call_method") and call_name(reader) in _BOUND_CALLS
    return reader if bound else node


def _behind_nothing(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """The last of the modules behind ``node`` that do nothing, as a folded batch norm leaves one."""
    while len(node.users) == 1:
        reader = next(iter(node.users))
        idle = reader.op == "call_module" and isinstance(modules[str(reader.target)], _IDLE)
        if not idle:
            break
        node = reader
    return node


def _quantised(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a quantiser, or a batch norm in its way, reads the tensor, if only as a part of another one."""
    readers = _behind_nothing(node, modules).users
    if len(readers) == 1:
        reader = next(iter(readers))
        if reader.op == "call_function" and call_name(reader) in ("cat", "concat"):
            return _quantised(reader, modules)
    return any(
        user.op == "call_module" and isinstance(modules[str(user.target)], (Quantizer, nn.modules.batchnorm._BatchNorm))
        for user in readers
    )


def _makes_output(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether what ``node`` makes is moved to the network's output and read by nothing else."""
    return all(
        user.op == "output" or (moves_values(user, modules) and _makes_output(user, modules)) for user in node.users
    )
