"""Measure the model as it stands."""

from __future__ import annotations

from typing import Any

from mcomp.stages.base import Stage, StageContext, StageResult, Traits
from mcomp.stages.registry import register


@register
class Evaluate(Stage):
    """Report top-1 and loss on the test images; hand the model on unchanged."""

    name, version = "evaluate", 1
    traits = Traits(metrics={"top1", "loss"})

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Evaluate ``ctx.model`` in float32."""
        ctx.require_data()
        return StageResult(model=ctx.model, metrics=ctx.evaluate())
