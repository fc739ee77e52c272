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


def quantize_outputs(model: nn.Module, bits: int = 8) -> tuple[nn.Module, list[str]]:
    """A copy of a quantised model in which convolutions, sums, products and means of integers end in integers.

    Each tensor gets an unsigned affine grid behind the ReLU, if one follows; its range is not known yet: run
    :func:`mcomp.quantization.calibrate`. A mean that only makes the network's output stays float, as do the outputs of
    linear layers, which integer kernels write in float.

    Args:
        model: quantised, its batch norms folded (one that stays keeps its layer's output float); not changed.
        bits: of each new grid.

    Returns:
        The model and the names of the new quantisers, in the order of execution.

    Raises:
        StageError: MC420, the model has no graph.
    """
    made = trace(copy.deepcopy(model)).train(model.training)
    assert isinstance(made, TracedModel)
    surgery.inherit(made, model)
    sites = _sites(made)
    names = _insert(made, sites, bits)
    if sites:
        surgery.record(made, "quantize_outputs", bits=bits, sites=[[node.name, known] for node, known in sites])
    return made, names


def quantize_outputs_again(model: nn.Module, entry: surgery.Entry) -> nn.Module:
    """Repeat a recorded :func:`quantize_outputs` on a model of the same structure."""
    made = trace(model)
    nodes = {node.name: node for node in made.graph.nodes}
    _insert(made, [(nodes[name], nonnegative) for name, nonnegative in entry["sites"]], entry["bits"])
    surgery.inherit(made, model)
    surgery.record(made, **entry)
    return made


def _insert(model: TracedModel, sites: list[tuple[fx.Node, bool]], bits: int) -> list[str]:
    names = []
    for node, nonnegative in sites:
        path = f"activation_quantizers.{node.name}"
        quantizer = AffineQuantizer(
            bits, symmetric=nonnegative, observer="minmax", signed=False, nonnegative_input=nonnegative
        )
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
    return any(
        user.op == "call_module" and isinstance(modules[str(user.target)], (Quantizer, nn.modules.batchnorm._BatchNorm))
        for user in _behind_nothing(node, modules).users
    )


def _makes_output(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether what ``node`` makes is moved to the network's output and read by nothing else."""
    return all(
        user.op == "output" or (moves_values(user, modules) and _makes_output(user, modules)) for user in node.users
    )
