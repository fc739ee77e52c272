"""Fine-tuning of a quantised network whose ranges and statistics stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import TRAINING_METRICS, fit_in, idle_milestones, taught_by
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught

if TYPE_CHECKING:
    from torch import nn


@register
class QAFT(Stage):
    """Train the weights of a quantised network on, its ranges and batch norm statistics frozen, at a small rate."""

    name, version = "qaft", 3
    traits = Traits(requires={"quantized", "bn"}, metrics=TRAINING_METRICS | {"top1_before_training"})

    class Options(TrainSettings, Taught, StageOptions):
        epochs: int = Field(2, ge=1, description="passes over the training images")
        lr: float = Field(1e-3, gt=0, description="peak learning rate")

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
        """Training, and the test images before and after it."""
        return Work(training=options, evaluations=2)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Freeze, train, and measure on test."""
        from mcomp.quantization import freeze

        before = ctx.evaluate(ctx.model)
        model = freeze(ctx.model)
        fitted = fit_in(ctx, model, options, train_mode=train_weights)
        metrics = {"epochs": options.epochs, **ctx.evaluate(fitted.model), "top1_before_training": before["top1"]}
        if "val_top1" in fitted.history[-1]:
            metrics["val_top1"] = fitted.history[-1]["val_top1"]
        return StageResult(model=fitted.model, metrics=metrics, details={"history": fitted.history})


def train_weights(model: nn.Module) -> None:
    """Training mode for everything but batch norms, whose statistics then stand still."""
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
