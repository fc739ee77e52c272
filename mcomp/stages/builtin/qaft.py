"""Fine-tuning of a quantised network whose ranges and statistics stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from mcomp.stages.base import StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import Work
from mcomp.stages.registry import register
from mcomp.stages.training_stage import TRAINING_METRICS, TrainingStage, train
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught

if TYPE_CHECKING:
    from torch import nn


@register
class QAFT(TrainingStage):
    """Train the weights of a quantised network on, its ranges and batch norm statistics frozen, at a small rate."""

    name, version = "qaft", 3
    traits = Traits(requires={"quantized", "bn"}, metrics=TRAINING_METRICS | {"top1_before_training"})

    class Options(TrainSettings, Taught, StageOptions):
        epochs: int = Field(2, ge=1, description="passes over the training images")
        lr: float = Field(1e-3, gt=0, description="peak learning rate")

    @classmethod
    def work(cls, options: Any) -> Work:
        """Training, and the test images before and after it."""
        return Work(training=options, evaluations=2)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Freeze, train, and measure on test."""
        from mcomp.quantization import freeze

        before = ctx.evaluate()
        ctx.model = freeze(ctx.model)
        result = train(ctx, options, train_mode=train_weights)
        result.metrics["top1_before_training"] = before["top1"]
        return result


def train_weights(model: nn.Module) -> None:
    """Training mode for everything but batch norms, whose statistics then stand still."""
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
