"""Whole channels out of the network, weights transferred."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mcomp.errors import StageError
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.forecast import PRUNE_SECONDS, Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

# INT8 kernels of TensorRT work on packs of this many channels.
_PACK = 16


@register
class Prune(Stage):
    """Cut the least important channels, and prove that the rest computes what the masked network computed."""

    name, version = "prune", 1
    traits = Traits(
        requires={"float", "bn"},
        provides={"pruned"},
        metrics={"top1", "loss", "params", "macs", "channels_kept", "max_error"},
    )

    class Options(StageOptions):
        ratio: float = Field(gt=0, lt=1, description="share of the prunable channels to cut")
        regular: int = Field(1, ge=1, description="every pruned width is a multiple of this")
        importance: Literal["bn_gamma", "l1", "l2", "random"] = Field(
            "bn_gamma", description="what ranks channels: |γ| of their batch norm, a norm of their filters, or chance"
        )
        scope: Literal["global", "per_layer"] = Field(
            "global", description="one threshold for the whole network, or the same ratio in every layer"
        )
        min_channels: int = Field(1, ge=1, description="no layer keeps fewer channels")
        ignore: list[str] = Field([], description="names or patterns (`features.0.*`) of layers to leave whole")

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of widths that the INT8 kernels downstream would pad."""
        if "trt_int8" in around.after and options.regular % _PACK:
            return [
                Finding(
                    f"widths in multiples of {options.regular} are padded by `trt_int8` downstream",
                    option=("regular",),
                    hint=f"INT8 kernels work in {_PACK}-channel packs; use `regular: {_PACK}`",
                    code="MC131",
                    severity="warning",
                )
            ]
        return []

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return unmatched(model, "ignore", options.ignore)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The very outcome where its scores are known by now, or do not matter; else the bounds that hold for any."""
        how = options.model_dump(exclude={"ratio"})
        if incoming.exact and (incoming.weights_known or options.importance == "random"):
            from mcomp.pruning import prune

            return incoming.through(
                lambda model: prune(model, incoming.example_inputs, options.ratio, seed=incoming.seed, **how).model
            )
        return _bounded(incoming, options.ratio, how)

    @classmethod
    def work(cls, options: Any) -> Work:
        """Tracing, surgery and its proof, and one pass over the test images."""
        return Work(fixed_seconds=PRUNE_SECONDS)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Prune a copy of ``ctx.model``; report accuracy on test where there is data."""
        from mcomp.pruning import prune

        result = prune(
            ctx.model,
            ctx.example_inputs,
            ratio=options.ratio,
            regular=options.regular,
            importance=options.importance,
            scope=options.scope,
            min_channels=options.min_channels,
            ignore=options.ignore,
            seed=ctx.seed,
        )
        after = {name: len(result.kept.get(name, range(width))) for name, width in result.widths.items()}
        metrics: Metrics = {
            **ctx.evaluate(result.model),
            "params": result.params_after,
            "macs": result.macs_after,
            "channels_kept": 100.0 * sum(after.values()) / sum(result.widths.values()),
            "max_error": result.max_error,
        }
        layers = [{"layer": name, "before": width, "after": after[name]} for name, width in result.widths.items()]
        details = {"layers": layers, "params_before": result.params_before, "macs_before": result.macs_before}
        return StageResult(model=result.model, metrics=metrics, notes=result.notes, details=details)


def _bounded(incoming: Forecast, ratio: float, how: dict[str, Any]) -> Forecast:
    from mcomp.pruning.bounds import reach, scores_repeat

    if incoming.model is None or incoming.params is None or incoming.macs is None:
        return Forecast.unknown()
    inputs = incoming.example_inputs
    ranking = {"importance": how["importance"], "ignore": how["ignore"]}
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
    model: nn.Module, example_inputs: tuple[Tensor, ...], ratio: float, how: dict[str, Any]
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
