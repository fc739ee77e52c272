"""Conversion module by module, for networks that no graph holds: what a layer reads is quantised at its door.

Two layers that read one tensor quantise it twice, a layer that is called twice has one grid for both inputs, and what
functions compute between layers stays float. All of that is weaker than a graph, and the report says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mcomp.errors import StageError
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.config import QuantizeConfig
from mcomp.quantization.inputs import fitting
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layer_choice import check_patterns, choose, layers_in_order
from mcomp.quantization.modules import replace_module
from mcomp.quantization.operands import FUNCTIONS
from mcomp.quantization.out_of_sight import WEIGHTED
from mcomp.quantization.plain_forward import make_plain
from mcomp.quantization.plan import why_float
from mcomp.quantization.quantizer_factory import QuantizerFactory


@dataclass
class Run:
    """What one run of a model reached.

    Attributes:
        layers: how often each layer with weights was called, in the order of the first calls.
        functions: how often a function multiplied outside of them, by ``function in module``.
    """

    layers: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)


def watch(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Run:
    """Run ``model`` once in eval mode and see which layers and functions multiply."""
    run = Run()
    fits = fitting(model, "the example inputs", example_inputs)
    with in_eval_mode(model), torch.no_grad(), fits, _watching(model, run):
        model(*example_inputs)
    return run


def swap(model: nn.Module, config: QuantizeConfig, reached: Mapping[str, int]) -> dict[str, str]:
    """Put quantised layers with quantisers of their inputs into ``model``, in place.

    Args:
        model: changed.
        config: what is asked for.
        reached: how often one run called each layer, in order, from :func:`watch`.

    Returns:
        The layers that stay float, and why.

    Raises:
        StageError: a pattern matches no layer, or the model is a layer itself.
    """
    if isinstance(model, WEIGHTED):
        raise StageError(
            f"the model is a single `{type(model).__name__}`, which has no place to be swapped in",
            code="MC420",
            hint="put it into `torch.nn.Sequential`",
        )
    make_plain(model)
    outer = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    names = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and not name.startswith(tuple(f"{each}." for each in outer))
    }
    kinds = {name: type(module).__name__ for name, module in names.items()}
    layers = layers_in_order(kinds, [name for name in reached if name in names])
    check_patterns([*config.skip, *config.overrides], layers)
    make = QuantizerFactory(config, model)
    why = {}
    for name, module in names.items():
        reason = why_float(layers[name], module, config)
        weights, activations = choose(config, layers[name])
        if not reason and name not in reached:
            reason = "the example inputs do not reach it"
        if not reason and weights.off and not isinstance(module, nn.MultiheadAttention):
            reason = weights.why_off
        if reason:
            why[name] = reason
            continue
        made = make.layer(module, weights, activations, own_inputs=True)
        if made is None:
            continue
        for each in made.modules():
            if isinstance(each, QuantizedWeight):
                each.read_often = reached[name] > 1
        replace_module(model, name, made)
    return why


@contextmanager
def _watching(model: nn.Module, run: Run) -> Iterator[None]:
    path: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(_Enter(name, module, path, run)))
        handles.append(module.register_forward_hook(_Leave(path), always_call=True))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _Functions(model, path, run):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()


class _Enter:
    def __init__(self, name: str, module: nn.Module, path: list[str], run: Run) -> None:
        self.name, self.weighted, self.path, self.run = name, isinstance(module, WEIGHTED), path, run

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        inside = bool(self.path) and self.path[-1] == ""
        if self.weighted and not inside:
            self.run.layers[self.name] = self.run.layers.get(self.name, 0) + 1
        # "" marks the inside of a layer with weights, whose own functions are no news
        self.path.append("" if self.weighted or inside else self.name or "the model")


class _Leave:
    def __init__(self, path: list[str]) -> None:
        self.path = path

    def __call__(self, *_: Any) -> None:
        self.path.pop()


class _Functions(TorchFunctionMode):
    def __init__(self, model: nn.Module, path: list[str], run: Run) -> None:
        super().__init__()
        self.model, self.path, self.run = type(model).__name__, path, run

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "").strip("_")
        if (name in FUNCTIONS or name == "einsum") and (not self.path or self.path[-1]):
            place = f"{name} in {self.path[-1] if self.path else self.model}"
            self.run.functions[place] = self.run.functions.get(place, 0) + 1
        return function(*args, **(kwargs or {}))
