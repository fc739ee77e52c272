"""Train a float network: the baseline of a recipe."""

from __future__ import annotations

from typing import Any

from mcomp.stages.base import StageContext, StageOptions, StageResult, Traits
from mcomp.stages.registry import register
from mcomp.stages.training_stage import TRAINING_METRICS, TrainingStage, train
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught


@register
class Train(TrainingStage):
    """Train a float network from its present weights."""

    name, version = "train", 1
    traits = Traits(requires={"float"}, metrics=TRAINING_METRICS)

    class Options(TrainSettings, Taught, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, and a teacher."""

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test."""
        return train(ctx, options)
