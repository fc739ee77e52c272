"""A model's graph through ``torch.export``, given back its modules.

``torch.export`` sees through what ``torch.fx`` cannot: shapes that steer Python, wrapped functions, any library of
layers. What it writes is a graph of ATen calls that read parameters and follow no ``train()``. Here each call
that a layer of the model made becomes a call of that layer again, found by the names of its parameters, so that
state, hooks, batch norms and dropout go on as they were.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from mcomp.errors import StageError
from mcomp.quantization.attention_dropout import follow_mode, training_chances
from mcomp.quantization.dataflow import call_name
from mcomp.quantization.exported_layers import restore_layers
from mcomp.quantization.modules import attribute
from mcomp.quantization.plain_forward import make_plain
from mcomp.quantization.tracing import TracedModel, users_line

#: Modules that leave no trace in eval mode; they stand in the graph as a call that is given back afterwards.
_VANISHING = frozenset({"StochasticDepth", "DropPath"})


@torch.library.custom_op("mcomp::site", mutates_args=())
def _site(x: Tensor, name: str) -> Tensor:
    """A place in the graph that belongs to the module ``name``, which keeps the shape of its input."""
    return x.clone()


@_site.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


def export(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> TracedModel:
    """The eval-mode graph of ``model``, sharing its modules and parameters, for batches of any size.

    Raises:
        StageError: ``torch.export`` refuses the model.
    """
    make_plain(model)
    modes = {module: module.training for module in model.modules()}
    sites = {name: module for name, module in model.named_modules() if type(module).__name__ in _VANISHING}
    for name, module in sites.items():
        module.forward = _SiteForward(name)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # about code that is not the user's; a refusal prints half a graph
            program = torch.export.export(
                model.eval(), _doubled(example_inputs), dynamic_shapes=_dynamic(example_inputs), strict=False
            )
            exported: Any = program.module()
            chances = training_chances(model, exported.graph, lambda: _in_training(model, example_inputs))
    except Exception as error:
        raise StageError(
            f"`torch.export` has no graph of `{type(model).__name__}`, at {users_line(error)}",
            code="MC420",
            why=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            hint="keep decisions that depend on a tensor's values out of forward()",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        logging.disable(previous)
        for module in sites.values():
            del module.forward
        for module, mode in modes.items():
            module.training = mode
    return _given_back(model, exported, chances)


def _in_training(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> fx.Graph:
    """The training-mode graph, of a copy: running statistics move in it."""
    copied = copy.deepcopy(model).train()
    program = torch.export.export(
        copied, _doubled(example_inputs), dynamic_shapes=_dynamic(example_inputs), strict=False
    )
    graph: fx.Graph = program.graph
    return graph


class _SiteForward:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor) -> Tensor:
        marked: Tensor = torch.ops.mcomp.site(x, self.name)
        return marked


def _doubled(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A batch of one looks like a constant to ``torch.export``."""
    return tuple(torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x for x in inputs)


def _dynamic(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """The batch may come first; in a sequence it may come second too."""
    auto = torch.export.Dim.AUTO
    return tuple(dict.fromkeys(range(min(x.dim(), 2 if x.dim() <= 3 else 1)), auto) for x in inputs)


def _given_back(model: nn.Module, exported: Any, chances: list[Any]) -> TracedModel:
    graph: fx.Graph = exported.graph
    graph.owning_module = None  # from here on its calls are of the model's own modules
    for node in reversed(list(graph.nodes)):
        guard = node.op == "call_module" and str(node.target) == "_guards_fn"
        if guard or (not node.users and (node.op == "get_attr" or call_name(node) in _CHECKS)):
            graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "get_attr":
            _adopt(model, exported, str(node.target))
        elif node.op == "call_function" and call_name(node) == "site":
            node.op, node.target, node.args = "call_module", node.args[1], (node.args[0],)
        elif node.op == "call_function" and call_name(node) in _SHAPING:
            node.op, node.target = "call_method", _SHAPING[call_name(node)]
        elif node.op == "call_function" and call_name(node) in _MAKING:
            node.target = _MAKING[call_name(node)]
    _follow_device(graph)
    restore_layers(model, graph)
    follow_mode(model, graph, chances)
    _plain_call(graph)
    traced = TracedModel(model, graph, class_name=type(model).__name__)
    traced.graph.lint()
    traced.recompile()
    return traced


#: Calls that hold sizes: in the words of Python, other tracers keep the sizes dynamic.
_SHAPING = {"sym_size": "size", "view": "view", "reshape": "reshape", "expand": "expand", "repeat": "repeat"}
_MAKING = {"zeros": torch.zeros, "ones": torch.ones, "full": torch.full}
_CHECKS = frozenset(
    {
        "_assert_scalar", "_assert_async", "sym_constrain_range", "sym_constrain_range_for_size",
        "_assert_tensor_metadata", "sym_size", "eq", "ge", "le", "gt", "lt", "ne",
    }
)  # fmt: skip


def _adopt(model: nn.Module, exported: nn.Module, path: str) -> None:
    """Constants that tracing made are buffers outside the state."""
    holder, _, name = path.rpartition(".")
    try:
        attribute(model, path)
    except AttributeError:
        place = model
        for part in holder.split(".") if holder else ():
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_buffer(name, attribute(exported, path).detach().clone(), persistent=False)


def _follow_device(graph: fx.Graph) -> None:
    """Tensors that forward() makes are made where its input is, not where the example was."""
    first = next((node for node in graph.nodes if node.op == "placeholder"), None)
    last = [node for node in graph.nodes if node.op == "placeholder"][-1:]
    makers = [node for node in graph.nodes if isinstance(node.kwargs.get("device"), torch.device)]
    if first is None or not makers:
        return
    with graph.inserting_after(last[0]):
        device = graph.call_function(getattr, (first, "device"))
    for node in makers:
        node.update_kwarg("device", device)


def _plain_call(graph: fx.Graph) -> None:
    """Take tensors and return the model's own structure without the detour through trees, where both are plain."""
    codegen: Any = graph._codegen
    info = getattr(codegen, "pytree_info", None)
    if info is None:
        return
    output = next(node for node in graph.nodes if node.op == "output")
    if not _is_plain(info.out_spec):
        return
    leaves = output.args[0]
    output.args = (pytree.tree_unflatten(list(leaves), info.out_spec),)
    graph.set_codegen(fx.graph.CodeGen())


def _is_plain(spec: Any) -> bool:
    if spec.is_leaf():
        return True
    return spec.type in (tuple, list, dict) and all(_is_plain(child) for child in spec.children())
