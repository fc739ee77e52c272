"""The three ways to see a model, and which of them converts most of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.config import QuantizeConfig, Route
from mcomp.quantization.inputs import fitting
from mcomp.quantization.modules import relative_error
from mcomp.quantization.out_of_sight import hidden_from_graph
from mcomp.quantization.plan import make_plan
from mcomp.quantization.tracing import TracedModel, trace

_SAME = 1e-5


@dataclass
class Seen:
    """A model's graph (None: module by module), the route that led there, and why the routes before it did not."""

    traced: TracedModel | None
    route: Route
    why: str = ""


def see(model: nn.Module, example_inputs: tuple[Tensor, ...], config: QuantizeConfig) -> Seen:
    """The graph of a copy of ``model`` by the route that ``config`` names, or by the best one.

    Raises:
        StageError: the route that was asked for does not work; MC424, the float model answers with nan.
    """
    if config.route == "modules":
        return Seen(None, "modules")
    if config.route != "auto":
        return Seen(graph_by(config.route, model, example_inputs), config.route)
    refusals: list[str] = []
    unmatched: StageError | None = None
    found: dict[Route, tuple[TracedModel, list[str]]] = {}
    routes: tuple[Route, ...] = ("symbolic", "export")
    for route in routes:
        try:
            traced = graph_by(route, model, example_inputs)
            hidden = hidden_from_graph(make_plan(traced, model, config).float_layers)
        except StageError as error:
            if error.code == "MC424":
                raise
            if error.code == "MC421":  # a pattern may name what only another route sees
                unmatched = unmatched or error
            refusals.append(f"{error}; {error.why}" if error.why else str(error))
            continue
        found[route] = (traced, hidden)
        if not hidden:
            break
        refusals.append(f"{route}: {len(hidden)} layers are out of sight, first `{hidden[0]}`")
    if not found and unmatched is not None:
        raise unmatched
    if not found:
        return Seen(None, "modules", "; ".join(refusals))
    best = min(found, key=lambda route: len(found[route][1]))
    return Seen(found[best][0], best, "; ".join(refusals) if best == "export" else "")


def graph_by(route: Route, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> TracedModel:
    """The graph of a copy of ``model``, proven to compute what the model does.

    Raises:
        StageError: there is none, or it computes something else.
    """
    traced = graph_again(route, copy.deepcopy(model), example_inputs)
    if route == "export":
        _prove_same(model, traced, tuple(torch.cat([x, x, x]) if x.dim() else x for x in example_inputs))
    _prove_same(model, traced, example_inputs)
    return traced


def graph_again(route: Route, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> TracedModel:
    """The graph of ``model`` itself by a route that is known to work."""
    if route == "symbolic":
        return trace(model, len(example_inputs))
    from mcomp.quantization.export_route import export

    return export(model, example_inputs)


def _prove_same(model: nn.Module, traced: TracedModel, example_inputs: tuple[Tensor, ...]) -> None:
    """Refuse a graph that computes something else than the module, e.g. because it froze a Python branch."""
    with in_eval_mode(model), in_eval_mode(traced), torch.inference_mode():
        with fitting(model, "the example inputs", example_inputs):
            expected = model(*example_inputs)
        try:
            found = traced.forward(*example_inputs)  # calling it would write the line of an error to the terminal
        except Exception as error:
            raise _other(model, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    try:
        difference = relative_error(found, expected)
    except (ValueError, RuntimeError) as error:
        raise _other(model, str(error)) from error
    if difference != difference:
        raise StageError(
            f"the output of `{type(model).__name__}` holds nan before it is quantised",
            code="MC424",
            hint="check the checkpoint and the example inputs",
        )
    if not difference <= _SAME:
        raise _other(model, f"{difference:.1e} apart")


def _other(model: nn.Module, how: str) -> StageError:
    return StageError(
        f"the graph of `{type(model).__name__}` computes something else than the module: {how}",
        code="MC420",
        why="its forward() depends on something that changes from call to call",
        hint="make forward() a pure function of its inputs in eval mode",
    )
