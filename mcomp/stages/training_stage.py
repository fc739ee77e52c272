"""What stages that train share: how a recipe's settings, seed and teacher become a run of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageResult, Surroundings
from mcomp.stages.forecast import Forecast, Work
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught

if TYPE_CHECKING:
    from torch import nn

    from mcomp.training.loop import FitResult, Loss
    from mcomp.training.penalty import Penalty
    from mcomp.training.teacher import Teacher

#: What every stage reports that trains.
TRAINING_METRICS = frozenset({"top1", "loss", "val_top1", "epochs"})


class TrainingStage(Stage):
    """A stage that changes weights and nothing else; its options are a :class:`~mcomp.training.TrainSettings`."""

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


def train(
    ctx: StageContext,
    settings: TrainSettings,
    penalty: Penalty | None = None,
    train_mode: Callable[[nn.Module], None] | None = None,
) -> StageResult:
    """Train ``ctx.model`` and measure it: ``top1`` and ``loss`` on test, ``val_top1`` of the last epoch, ``epochs``."""
    fitted = fit_in(ctx, ctx.model, settings, penalty, train_mode)
    metrics: Metrics = {"epochs": settings.epochs, **ctx.evaluate(fitted.model)}
    if "val_top1" in fitted.history[-1]:
        metrics["val_top1"] = fitted.history[-1]["val_top1"]
    return StageResult(model=fitted.model, metrics=metrics, details={"history": fitted.history})


def taught_by(options: Any) -> list[str]:
    """Ids of the stages that options of training name as teachers."""
    return options.teachers() if isinstance(options, Taught) else []


def fit_in(
    ctx: StageContext,
    model: nn.Module,
    settings: TrainSettings,
    penalty: Penalty | None = None,
    train_mode: Callable[[nn.Module], None] | None = None,
) -> FitResult:
    """Train ``model`` with the seed, device, snapshots, progress and teacher of ``ctx``."""
    from mcomp.training.loop import fit

    return fit(
        model,
        ctx.require_data(),
        settings,
        seed=ctx.seed,
        device=ctx.device,
        precision=ctx.precision,
        report=ctx.report,
        log=ctx.log,
        save=ctx.save,
        restore=ctx.restore,
        should_stop=ctx.should_stop,
        penalty=penalty,
        loss=_loss(ctx, settings),
        train_mode=train_mode,
    )


def _loss(ctx: StageContext, settings: TrainSettings) -> Loss | None:
    """What is learned from a teacher, where there is one."""
    told: Teacher | None = getattr(settings, "teacher", None)
    if told is None:
        return None
    from mcomp.training.distillation import DistillationLoss
    from mcomp.training.preparation import check_outputs

    teacher = ctx.earlier[told.stage]()
    check_outputs(teacher, ctx.require_data())
    return DistillationLoss(teacher.to(ctx.device), told.alpha, told.temperature, settings.label_smoothing)


def idle_milestones(settings: TrainSettings) -> list[Finding]:
    """A warning for each milestone at or behind the last epoch."""
    if settings.schedule != "multistep":
        return []
    return [
        Finding(
            f"milestone {milestone:g} never comes: training ends after {settings.epochs} epochs",
            option=("milestones", index),
            hint="write shares of the epochs, e.g. `milestones: [0.5, 0.75]`",
            severity="warning",
        )
        for index, milestone in enumerate(settings.milestones)
        if milestone >= settings.epochs
    ]
