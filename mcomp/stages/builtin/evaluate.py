"""Measure the model as it stands."""

from __future__ import annotations

from typing import Any

from mcomp.stages.base import Stage, StageContext, StageResult, Traits
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register


@register
class Evaluate(Stage):
    """Report top-1 and loss on the test images; hand the model on unchanged."""

    name, version = "evaluate", 1
    traits = Traits(metrics={"top1", "loss"})

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model itself."""
        return incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """One pass over the test images."""
        return Work()

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Evaluate ``ctx.model`` in float32."""
        ctx.require_data()
        return StageResult(model=ctx.model, metrics=ctx.evaluate())
