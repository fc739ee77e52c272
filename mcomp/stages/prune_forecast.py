"""What the `prune` stage will hand on, told before it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcomp.errors import StageError
from mcomp.stages.forecast import Forecast

if TYPE_CHECKING:
    from torch import Tensor, nn


def forecast(incoming: Forecast, options: Any) -> Forecast:
    """The very outcome where its scores are known, or do not matter; else bounds that hold for any; else nothing.

    A time to reach is not known before it is measured, nor a figure to reach before the scores are; what training
    between steps leaves cannot be told from the weights before it.
    """
    scored = incoming.weights_known and options.importance not in ("taylor", "hessian")
    known = incoming.exact and (scored or options.importance == "random")
    if options.latency_ms is not None or options.steps > 1:
        return Forecast.unknown()
    if known:
        from mcomp.pruning import prune

        target = {name: getattr(options, name) for name in ("ratio", "macs", "params", "keep", "prune")}
        return incoming.through(
            lambda model: prune(model, incoming.example_inputs, seed=incoming.seed, **target, **options.how()).model
        )
    if options.macs is not None or options.params is not None:
        return Forecast.unknown()
    how = {name: value for name, value in options.how().items() if name not in ("group_reduction", "normalize")}
    return _bounded(incoming, options.ratio, how | {"keep": options.keep, "prune": options.prune})


def _bounded(incoming: Forecast, ratio: float | None, how: dict[str, Any]) -> Forecast:
    from mcomp.pruning.bounds import reach, scores_repeat

    if incoming.model is None or incoming.params is None or incoming.macs is None:
        return Forecast.unknown()
    inputs = incoming.example_inputs
    ranking = {name: how[name] for name in ("importance", "ignore", "heads")}
    # scales of batch norms begin equal, and training or a penalty may leave them so; norms of whole filters stay apart
    ties = not incoming.exact or how["importance"] == "bn_gamma" or scores_repeat(incoming.model, inputs, **ranking)
    found = reach(incoming.model, inputs, ratio, ties=ties, **how)
    corners: tuple[nn.Module, ...]
    if incoming.exact:
        if found.certain and found.narrowest is not None:
            made = Forecast.of(found.narrowest, inputs, weights_known=False)
            return replace(made, seed=incoming.seed)
        smallest = [found.narrowest]
        corners, params, macs = (incoming.model,), found.params, found.macs
    else:  # of an architecture that is not certain: no more than came in, no less than its least can become
        least = [_least(corner, inputs, ratio, how) for corner in incoming.corners]
        smallest, corners = [model for model, _, _ in least], incoming.corners
        params = min(params for _, params, _ in least), incoming.params[1]
        macs = min(macs for _, _, macs in least), incoming.macs[1]
        if not incoming.floored:
            params, macs = (0, params[1]), (0, macs[1])
    made = replace(incoming, model=found.typical, params=params, macs=macs, weights_known=False)
    floors = [model for model in smallest if model is not None]
    return replace(made, corners=(*floors, *corners), floored=incoming.floored and len(floors) == len(smallest))


def _least(
    model: nn.Module, example_inputs: tuple[Tensor, ...], ratio: float | None, how: dict[str, Any]
) -> tuple[nn.Module | None, int, int]:
    """The least that can become of ``model``, with its params and MACs; itself where nothing more can be cut."""
    from mcomp.metrics import count
    from mcomp.pruning.bounds import reach

    try:
        found = reach(model, example_inputs, ratio, ties=True, **how)
    except StageError:
        cost = count(model, example_inputs)
        return model, cost.params, cost.macs
    return found.narrowest, found.params[0], found.macs[0]
