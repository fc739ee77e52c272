"""Train on after pruning or another change of structure, at a smaller learning rate."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mcomp.stages.base import StageContext, StageOptions, StageResult, Traits
from mcomp.stages.registry import register
from mcomp.stages.training_stage import TRAINING_METRICS, TrainingStage, train
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught


@register
class Finetune(TrainingStage):
    """Train a pruned float network on, to win back what it lost."""

    name, version = "finetune", 2
    traits = Traits(requires={"float"}, metrics=TRAINING_METRICS | {"effective_macs"})

    class Options(TrainSettings, Taught, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, gentler."""

        lr: float = Field(0.05, gt=0, description="peak learning rate")

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test, and behind `sparsify` the MACs without its zeros."""
        from mcomp.metrics import effective_macs
        from mcomp.surgery import provenance

        result = train(ctx, options)
        if any(entry["op"] == "sparsify" for entry in provenance(result.model).log):
            result.metrics["effective_macs"] = effective_macs(result.model, ctx.example_inputs)
        return result
