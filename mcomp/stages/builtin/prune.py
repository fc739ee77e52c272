"""Whole channels out of the network, weights transferred."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.registry import register

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
