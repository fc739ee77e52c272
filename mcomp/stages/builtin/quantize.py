"""Quantisation-aware training, or calibration alone with ``epochs: 0``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mcomp.stages.base import Finding, StageContext, StageResult, Surroundings, Traits
from mcomp.stages.converting_stage import (
    CONVERTING_METRICS,
    REPORT_IMAGES,
    ConvertingStage,
    calibrated,
    converted_result,
    measured_layers,
)
from mcomp.stages.forecast import CONVERT_SECONDS, Work
from mcomp.stages.quantization_options import QuantizationOptions, converted
from mcomp.stages.registry import register
from mcomp.stages.training_stage import fit_in, idle_milestones, taught_by
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught


@register
class Quantize(ConvertingStage):
    """Train weights and activations at few bits, from calibrated ranges, so that integers predict what was trained.

    A model that is quantised already is quantised anew, from the float weights that its training went on with.
    """

    name, version = "quantize", 12
    traits = Traits(
        requires={"bn"},
        provides={"quantized"},
        destroys={"float"},
        metrics=CONVERTING_METRICS | {"top1_before_training"},
    )

    class Options(TrainSettings, Taught, QuantizationOptions):
        epochs: int = Field(4, ge=0, description="passes over the training images; 0 only calibrates")
        lr: float = Field(0.01, gt=0, description="peak learning rate")

        @model_validator(mode="after")
        def _consistent(self) -> Quantize.Options:
            """As for any training, where there is any."""
            if self.epochs:
                super()._consistent()  # type: ignore[operator]
            return self

    @classmethod
    def reads(cls, options: Any) -> list[str]:
        """The teacher's stage, where anything is trained."""
        return taught_by(options) if options.epochs else []

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of milestones that never come, and of an override that the skip list hides."""
        return [*(idle_milestones(options) if options.epochs else []), *super().check(options, around)]

    @classmethod
    def work(cls, options: Any) -> Work:
        """Calibration, training where there is any, and the test images before and after it."""
        training = options if options.epochs else None
        evaluations = 2 if training else 1
        sample = options.calibration_samples
        return Work(
            training, evaluations=evaluations, calibration=sample + 2 * REPORT_IMAGES, fixed_seconds=CONVERT_SECONDS
        )

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Convert, calibrate on training images, train, and measure on test."""
        model = calibrated(ctx, converted(ctx.model, ctx.example_inputs, options), options)
        before = ctx.evaluate(model)
        history = fit_in(ctx, model, options).history if options.epochs else []
        after = ctx.evaluate(model) if options.epochs else before
        result = converted_result(model, {**after, "top1_before_training": before["top1"]})
        result.notes += (
            lower_than_before(float(before["top1"]), float(after["top1"]), options.lr) if options.epochs else []
        )
        result.details.update(history=history, **measured_layers(ctx, model, options.sensitivity))
        return result


def lower_than_before(before: float, after: float, lr: float) -> list[str]:
    """A note where training cost accuracy that calibrated ranges alone had; figures in percent."""
    if after >= before:
        return []
    return [
        f"training ended at {after:.2f} % top-1, below the {before:.2f} % of calibrated ranges alone: "
        f"lower `lr` ({lr:g}), train for more epochs, or calibrate only (`epochs: 0`)"
    ]
