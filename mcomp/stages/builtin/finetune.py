"""Train on after pruning or another change of structure, at a smaller learning rate."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import TRAINING_METRICS, idle_milestones, taught_by, train
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught


@register
class Finetune(Stage):
    """Train a pruned float network on, to win back what it lost."""

    name, version = "finetune", 2
    traits = Traits(requires={"float"}, metrics=TRAINING_METRICS | {"effective_macs"})

    class Options(TrainSettings, Taught, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, gentler."""

        lr: float = Field(0.05, gt=0, description="peak learning rate")

    @classmethod
    def reads(cls, options: Any) -> list[str]:
        """The teacher's stage."""
        return taught_by(options)

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of milestones that never come."""
        return idle_milestones(options)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """Other weights in the same structure."""
        return incoming.trained()

    @classmethod
    def work(cls, options: Any) -> Work:
        """Training, and one pass over the test images."""
        return Work(training=options)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test, and behind `sparsify` the MACs without its zeros."""
        from mcomp.metrics import effective_macs
        from mcomp.surgery import provenance

        result = train(ctx, options)
        if any(entry["op"] == "sparsify" for entry in provenance(result.model).log):
            result.metrics["effective_macs"] = effective_macs(result.model, ctx.example_inputs)
        return result
