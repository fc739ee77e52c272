"""Quantisation-aware training, or calibration alone with ``epochs: 0``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from mcomp.errors import plural
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import fit_in, idle_milestones, taught_by
from mcomp.stages.forecast import CONVERT_SECONDS, Forecast, Work
from mcomp.stages.quantization_options import QuantizationOptions, converted, override_findings, unmatched_layers
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings
from mcomp.training.teacher import Taught

if TYPE_CHECKING:
    from torch import nn

#: Training images that the report of each layer looks at.
REPORT_IMAGES = 128


@register
class Quantize(Stage):
    """Train weights and activations at few bits, from calibrated ranges, so that integers predict what was trained.

    A model that is quantised already is quantised anew, from the float weights that its training went on with.
    """

    name, version = "quantize", 8
    traits = Traits(
        requires={"bn"},
        provides={"quantized"},
        destroys={"float"},
        metrics={"top1", "loss", "top1_before_training", "layers_quantized", "layers_float"},
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
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        """Nothing is left to the scheme or to ``auto``."""
        return options.completed(around)

    @classmethod
    def reads(cls, options: Any) -> list[str]:
        """The teacher's stage, where anything is trained."""
        return taught_by(options) if options.epochs else []

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of milestones that never come, and of an override that the skip list hides."""
        return [*(idle_milestones(options) if options.epochs else []), *override_findings(options)]

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return unmatched_layers(model, options)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model with quantisers in it; their ranges, which no count depends on, are found on the example inputs."""
        return forecast_converted(incoming, options)

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
        result.details.update(history=history, **measured_layers(ctx, model, options.sensitivity))
        return result


def forecast_converted(incoming: Forecast, options: QuantizationOptions) -> Forecast:
    """What a stage that converts will hand on."""
    from mcomp.quantization import calibrate

    def change(model: nn.Module) -> nn.Module:
        made = converted(model, incoming.example_inputs, options)
        calibrate(made, [incoming.example_inputs], "minmax")
        return made

    return incoming.through(change)


def calibrated(ctx: StageContext, model: nn.Module, options: QuantizationOptions) -> nn.Module:
    """``model``, its activation ranges found on training images."""
    from mcomp.quantization import calibrate

    sample = ctx.require_data().train.subset(options.calibration_samples, seed=ctx.seed)
    ctx.report("status", text=f"finding activation ranges on {plural(len(sample), 'training image')}")
    calibrate(model.to(ctx.device), sample.batches(device=ctx.device), options.calibration)
    return model.cpu()


def measured_layers(ctx: StageContext, model: nn.Module, sensitivity: bool) -> dict[str, Any]:
    """Details of a stage that converted a model: every layer's report on some training images, and what it costs alone.

    Accuracy with one layer quantised is that of validation images, the test images being for the final figures.
    """
    from mcomp.quantization import layer_report
    from mcomp.quantization import sensitivity as alone
    from mcomp.quantization.summary import quantising_modules

    if not quantising_modules(model):  # 32 bits everywhere
        return {}
    data = ctx.require_data()
    images = data.train.subset(min(REPORT_IMAGES, len(data.train)), seed=ctx.seed)
    ctx.report("status", text="measuring each layer")
    model.to(ctx.device)
    measured = {"layer_report": layer_report(model, images.batches(device=ctx.device)).as_dict()}
    if sensitivity:
        held = list(data.val.batches(device=ctx.device))
        measured["sensitivity"] = alone(model, ctx.example_inputs, held).as_dict()
    model.cpu()
    return measured


def converted_result(model: nn.Module, metrics: Metrics) -> StageResult:
    """The result of a stage that converted a model: what became of each tensor, beside ``metrics``."""
    from mcomp.quantization import describe
    from mcomp.quantization.calibration import quantizers
    from mcomp.quantization.quantizers import BinaryActivation
    from mcomp.quantization.summary import conversion_route, float_layers, overruled, quantized_layers

    floats = float_layers(model)
    route, why_route = conversion_route(model)
    notes = [f"`{name}` stays float: {why}" for name, why in floats.items()]
    for place, quantizer in quantizers(model).items():
        notes += [f"{asked}, but `{place}` has another grid for another reader" for asked in overruled(quantizer)]
    if route == "modules":
        notes.insert(0, f"no graph of the network was found, so each layer was converted by itself ({why_route})")
        if any(isinstance(module, BinaryActivation) for module in model.modules()):
            notes.insert(1, "no ReLU gave way to a sign: what a layer reads behind one has the sign 1 everywhere")
    counts: Metrics = {"layers_quantized": len(quantized_layers(model)), "layers_float": len(floats)}
    return StageResult(model=model, metrics={**metrics, **counts}, notes=notes, details={"tensors": describe(model)})
