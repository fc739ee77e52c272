"""Quantise what layers make, too, for engines whose integer kernels end in integers.

:func:`mcomp.quantization.quantize` gives a grid to every tensor that a layer *reads*; the input of a residual sum, the
sum itself or what a mean makes stay float, as TensorRT fuses them. The integer convolutions and sums of ONNX Runtime
write integers only: one float tensor between them costs the kernel of the layer that makes it.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn

from mcomp import surgery
from mcomp.quantization.config import OFF
from mcomp.quantization.dataflow import call_name, moves_values
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.quantizers.affine import AffineQuantizer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.lsq import LSQuantizer
from mcomp.quantization.signs import nonnegative_nodes
from mcomp.quantization.tracing import TracedModel, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_POOL_CALLS = frozenset(
    {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"}
)
_JOIN_CALLS = frozenset({"add", "add_", "iadd", "mul", "mul_", "imul", "cat", "concat"})
#: What the saturation of an unsigned quantiser does as well, or nearly all of it.
_BOUNDS = (nn.ReLU, nn.ReLU6)
_BOUND_CALLS = frozenset({"relu", "relu_", "relu6"})


def quantize_outputs(model: nn.Module, bits: int = 8, *, shortcuts: bool = False) -> tuple[nn.Module, list[str]]:
    """A copy of a quantised model in which convolutions, sums, products and means of integers end in integers.

    Each tensor gets an unsigned affine grid behind the ReLU, if one follows; its range is not known yet: run
    :func:`mcomp.quantization.calibrate`. A mean that only makes the network's output stays float, as do the outputs of
    linear layers, which integer kernels write in float.

    TensorRT adds a residual to the sums of the convolution that it fuses with the addition, in place; of two
    convolutions in one sum the other one has to write integers. ``shortcuts`` gives a grid to those alone, symmetric:
    to the outputs of convolutions on the shorter way into a sum of two.

    Args:
        model: quantised, its batch norms folded (one that stays keeps its layer's output float); not changed.
        bits: of each new grid.
        shortcuts: only the shorter ways of sums of two convolutions.

    Returns:
        The model and the names of the new quantisers, in the order of execution.

    Raises:
        StageError: MC420, the model has no graph.
    """
    made = trace(copy.deepcopy(model)).train(model.training)
    assert isinstance(made, TracedModel)
    surgery.inherit(made, model)
    sites = [(node, False) for node in _shortcuts(made)] if shortcuts else _sites(made)
    names = _insert(made, sites, bits, symmetric=shortcuts)
    if sites:
        places = [[node.name, known] for node, known in sites]
        surgery.record(made, "quantize_outputs", bits=bits, sites=places, symmetric=shortcuts)
    return made, names


def quantize_outputs_again(model: nn.Module, entry: surgery.Entry) -> nn.Module:
    """Repeat a recorded :func:`quantize_outputs` on a model of the same structure."""
    made = trace(model)
    nodes = {node.name: node for node in made.graph.nodes}
    sites = [(nodes[name], nonnegative) for name, nonnegative in entry["sites"]]
    _insert(made, sites, entry["bits"], symmetric=entry["symmetric"])
    surgery.inherit(made, model)
    surgery.record(made, **entry)
    return made


def _insert(model: TracedModel, sites: list[tuple[fx.Node, bool]], bits: int, *, symmetric: bool) -> list[str]:
    names = []
    for node, nonnegative in sites:
        path = f"activation_quantizers.{node.name}"
        quantizer = _symmetric(bits) if symmetric else _unsigned(bits, nonnegative)
        quantizer.name = path
        device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), None)
        model.add_submodule(path, quantizer.to(device).train(model.training))
        with model.graph.inserting_after(node):
            quantised = model.graph.call_module(path, (node,))
        for reader in [each for each in node.users if each is not quantised]:
            reader.replace_input_with(node, quantised)
        names.append(path)
    model.graph.lint()
    model.recompile()
    return names


def _unsigned(bits: int, nonnegative: bool) -> Quantizer:
    return AffineQuantizer(bits, symmetric=nonnegative, observer="minmax", signed=False, nonnegative_input=nonnegative)


def _symmetric(bits: int) -> Quantizer:
    return LSQuantizer(bits, True)  # whose grid is all of the integer type: nothing is left to clip


def _sites(model: TracedModel) -> list[tuple[fx.Node, bool]]:
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


def _shortcuts(model: TracedModel) -> list[fx.Node]:
    """Convolutions whose output meets that of a longer way in a sum, both of them raw."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    depth: dict[fx.Node, int] = {}
    found: list[fx.Node] = []
    for node in model.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        before = max((depth[each] for each in node.all_input_nodes), default=0)
        depth[node] = before + isinstance(layer, _CONVOLUTIONS)
        name = call_name(node) if node.op in ("call_function", "call_method") else ""
        if name not in ("add", "add_", "iadd") or len(node.all_input_nodes) != 2:
            continue
        makers = [_maker(each, modules) for each in node.all_input_nodes]
        raw = [each for each in makers if each.op == "call_module" and _integer_conv(modules[str(each.target)])]
        shorter = min(makers, key=lambda each: depth[each])
        if len(raw) == 2 and shorter not in found:
            found.append(shorter)
    return found


def _maker(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """What made the tensor, before modules that do nothing."""
    while node.op == "call_module" and isinstance(modules[str(node.target)], (nn.Identity, nn.Dropout)):
        node = node.all_input_nodes[0]
    return node


def _integer_conv(layer: nn.Module) -> bool:
    return isinstance(layer, _CONVOLUTIONS) and _integer_weight(layer)


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
        idle = reader.op == "call_module" and isinstance(modules[str(reader.target)], (nn.Identity, nn.Dropout))
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
