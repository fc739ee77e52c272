"""A model's graph through ``torch.fx``, and a clear refusal where there is none."""

from __future__ import annotations

import copy
import traceback
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn

from mcomp.errors import StageError
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.surgery import ATTRIBUTE

_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)
_LEAVES = (Quantizer, QuantizedLayer, FoldedLayer)

#: ``training=self.training`` is a constant in a graph, so these calls become modules that follow ``train()``.
_DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
}


class TracedModel(fx.GraphModule):
    """A graph module that keeps its provenance when copied (``fx.GraphModule`` keeps only what it knows)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModel:
        copied = cast(TracedModel, super().__deepcopy__(memo))
        if ATTRIBUTE in self.__dict__:
            copied.__dict__[ATTRIBUTE] = copy.deepcopy(self.__dict__[ATTRIBUTE], memo)
        return copied

    def __copy__(self) -> TracedModel:
        copied = cast(TracedModel, super().__copy__())
        if ATTRIBUTE in self.__dict__:
            copied.__dict__[ATTRIBUTE] = copy.deepcopy(self.__dict__[ATTRIBUTE])
        return copied


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torchvision's stochastic depth asks self.training, as functional dropout does
        if isinstance(m, _LEAVES) or type(m).__name__ == "StochasticDepth":
            return True
        return super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> TracedModel:
    """The eval-mode graph of ``model``, sharing its modules and parameters.

    Raises:
        StageError: the forward pass depends on values or Python state that a graph cannot hold.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the user's forward raises when it meets a symbol
        raise _refusal(model, error) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    traced = TracedModel(model, graph, class_name=type(model).__name__)
    _revive_dropout(traced)
    traced.recompile()
    return traced


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


def _refusal(model: nn.Module, error: Exception) -> StageError:
    place = "its forward()"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.line and not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THE_USERS):
            place = f"{frame.filename}:{frame.lineno}: `{frame.line}`"
    reason = str(error).partition("\n")[0]
    return StageError(
        f"the graph of `{type(model).__name__}` cannot be traced, at {place}",
        code="MC420",
        why=f"{type(error).__name__}: {reason}",
        hint="let no `if`, loop or int() depend on a tensor's values or shape; put such code into a module of "
        "`torch.nn`, or wrap the function with `torch.fx.wrap`",
    )
