"""A model's graph through ``torch.fx``, and a clear refusal where there is none."""

from __future__ import annotations

import copy
import inspect
import traceback
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from mcomp.errors import StageError
from mcomp.quantization.attention import QuantAttention, QuantMultiheadAttention
from mcomp.quantization.attention_dropout import follow_mode, training_chances
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.norm_with_activation import split_norms
from mcomp.quantization.plain_forward import PLAIN, make_plain
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.recurrent import QuantizedCell, QuantizedRecurrent
from mcomp.quantization.restoration import FLOAT
from mcomp.surgery import ATTRIBUTE

_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)
_LEAVES = (
    Quantizer,
    QuantizedWeight,
    QuantizedRecurrent,
    QuantizedCell,
    QuantMultiheadAttention,
    QuantAttention,
    FoldedLayer,
)

#: ``training=self.training`` is a constant in a graph, so these calls become modules that follow ``train()``.
_DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
}


#: What a copy takes along: provenance, and the float network of a quantised one.
_KEPT = frozenset({ATTRIBUTE, FLOAT})


class TracedModel(fx.GraphModule):
    """A graph module that keeps its provenance when copied (``fx.GraphModule`` keeps only what it knows)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModel:
        copied = cast(TracedModel, super().__deepcopy__(memo))
        for name in _KEPT & self.__dict__.keys():
            copied.__dict__[name] = copy.deepcopy(self.__dict__[name], memo)
        return copied

    def __copy__(self) -> TracedModel:
        copied = cast(TracedModel, super().__copy__())
        for name in _KEPT & self.__dict__.keys():
            copied.__dict__[name] = copy.deepcopy(self.__dict__[name])
        return copied


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, tuple(PLAIN.values())) or parametrize.is_parametrized(m):
            return False
        # torchvision's stochastic depth asks self.training, as functional dropout does
        if isinstance(m, _LEAVES) or type(m).__name__ == "StochasticDepth":
            return True
        return super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, inputs: int | None = None) -> TracedModel:
    """The eval-mode graph of ``model``, sharing its modules and parameters.

    Args:
        model: any module; the graph of one that was traced before is copied.
        inputs: how many arguments it is called with: those behind them that have a default keep it. None keeps all.

    Raises:
        StageError: the forward pass depends on values or Python state that a graph cannot hold.
    """
    if isinstance(model, TracedModel):
        return _same_graph(model)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        make_plain(model)
        split_norms(model)
        defaults = _defaults(model, inputs)
        graph = _Tracer().trace(model, defaults)
        chances = training_chances(model, graph, lambda: _Tracer().trace(model.train(), defaults))
    except Exception as error:  # whatever the user's forward raises when it meets a symbol
        raise _refusal(model, error) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    _drop_defaults(graph)
    traced = TracedModel(model, graph, class_name=type(model).__name__)
    _revive_dropout(traced)
    follow_mode(traced, traced.graph, chances)
    traced.recompile()
    return traced


def _same_graph(model: TracedModel) -> TracedModel:
    graph = fx.Graph()
    output = graph.graph_copy(model.graph, {}, return_output_node=True)
    assert output is not None
    graph.output(output[0])  # type: ignore[index]
    graph.set_codegen(copy.deepcopy(model.graph._codegen))
    return TracedModel(model, graph, class_name=type(model).__name__)


def _defaults(model: nn.Module, inputs: int | None) -> dict[str, Any]:
    if inputs is None:
        return {}
    parameters = list(inspect.signature(model.forward).parameters.values())[inputs:]
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _drop_defaults(graph: fx.Graph) -> None:
    """Remove arguments that keep their default, and the assertions that torch.fx makes of them."""
    for node in reversed(list(graph.nodes)):
        asserts = node.op == "call_function" and getattr(node.target, "__name__", "") in ("_assert", "_assert_is_none")
        unused = not node.users and (
            (node.op == "placeholder" and bool(node.args)) or getattr(node.target, "__name__", "") in ("eq", "getattr")
        )
        if (asserts and not node.users) or unused:
            graph.erase_node(node)


def _revive_dropout(traced: TracedModel) -> None:
    for node in list(traced.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in _DROPOUTS:
            continue
        chance = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        path = f"traced_dropouts.{node.name}"
        traced.add_submodule(path, _DROPOUTS[name](chance).train(traced.training))
        with traced.graph.inserting_after(node):
            module = traced.graph.call_module(path, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)


def users_line(error: Exception) -> str:
    """The last line of the user's own code that an error passed through."""
    place = "its forward()"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.line and not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THE_USERS):
            place = f"{frame.filename}:{frame.lineno}: `{frame.line}`"
    return place


def _refusal(model: nn.Module, error: Exception) -> StageError:
    reason = str(error).partition("\n")[0]
    return StageError(
        f"the graph of `{type(model).__name__}` cannot be traced, at {users_line(error)}",
        code="MC420",
        why=f"{type(error).__name__}: {reason}",
        hint="let no `if`, loop or int() depend on a tensor's values or shape; put such code into a module of "
        "`torch.nn`, or wrap the function with `torch.fx.wrap`",
    )
