"""Quantisation-aware training, or calibration alone with ``epochs: 0``."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from mcomp.errors import plural
from mcomp.options import Options as BaseOptions
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import fit_in, idle_milestones
from mcomp.stages.forecast import CONVERT_SECONDS, Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


def _on_offer(bits: int) -> int:
    if bits != 32 and not 2 <= bits <= 16:
        raise ValueError(f"{bits} bits are not on offer; use 2..16, or 32 for off")
    return bits


Bits = Annotated[int, AfterValidator(_on_offer), WithJsonSchema({"type": "integer", "enum": [*range(2, 17), 32]})]


class LayerBits(BaseOptions):
    """Bits of the layers that one pattern names; what is left out stays as for all others."""

    w_bits: Bits | None = Field(None, description="weight bits, 32 for float")
    a_bits: Bits | None = Field(None, description="bits of the layer's input, 32 for float")


@register
class Quantize(Stage):
    """Train weights and activations at few bits, from calibrated ranges, so that integers predict what was trained."""

    name, version = "quantize", 2
    traits = Traits(
        requires={"float", "bn"},
        provides={"quantized"},
        destroys={"float"},
        metrics={"top1", "loss", "top1_before_training", "layers_quantized", "layers_float"},
    )

    class Options(TrainSettings, StageOptions):
        scheme: Literal["dorefa"] = Field(
            "dorefa", description="dorefa: Zhou et al. 2016 and its integer-exact variant"
        )
        w_bits: Bits = Field(8, description="weight bits, 2..16, or 32 for off")
        a_bits: Bits = Field(8, description="activation bits, 2..16, or 32 for off")
        variant: Literal["int_exact", "paper", "micronet"] = Field(
            "int_exact", description="int_exact keeps the float model's function; the others reproduce older formulas"
        )
        levels: Literal["auto"] | int = Field(
            "auto",
            description="largest level of unsigned 8-bit activations: 127 or 255; auto is 127 where trt_int8 follows",
        )
        first_layer_float: bool = Field(True, description="keep the first layer and its input float")
        skip: list[str] = Field([], description="name patterns of layers that stay float, e.g. `classifier.*`")
        overrides: dict[str, LayerBits] = Field(
            {}, description="name pattern to {w_bits, a_bits}; the first pattern that matches a layer counts"
        )
        per_channel: bool = Field(False, description="one weight scale per output channel in place of one per layer")
        tanh: bool = Field(False, description="warp weights by tanh first, as the paper does (int_exact)")
        calibration: Literal["minmax", "percentile", "mse", "entropy"] = Field(
            "mse", description="how activation ranges are found before training"
        )
        calibration_samples: int = Field(512, ge=1, description="training images the ranges are found on")
        epochs: int = Field(4, ge=0, description="passes over the training images; 0 only calibrates")
        lr: float = Field(0.01, gt=0, description="peak learning rate")

        @model_validator(mode="after")
        def _consistent(self) -> Quantize.Options:
            """As for any training, where there is any."""
            if self.levels not in ("auto", 127, 255):
                raise ValueError(f"levels {self.levels} is none of auto, 127 and 255")
            if self.variant != "int_exact" and self.per_channel:
                raise ValueError("per_channel needs variant int_exact: the other formulas have one scale by definition")
            if self.epochs:
                super()._consistent()  # type: ignore[operator]
            return self

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        """``levels: auto`` becomes 127 where TensorRT follows, which has no unsigned INT8, else 255."""
        if options.levels != "auto":
            return options
        return options.model_copy(update={"levels": 127 if "trt_int8" in around.after else 255})

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of milestones that never come, and of an override that the skip list hides."""
        hidden = [
            Finding(
                f"override `{pattern}` has no effect: `skip` holds the same pattern",
                option=("overrides", pattern),
                severity="warning",
            )
            for pattern in options.overrides
            if any(fnmatch.fnmatchcase(pattern, skipped) for skipped in options.skip)
        ]
        return [*(idle_milestones(options) if options.epochs else []), *hidden]

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return [
            *unmatched(model, "skip", options.skip, by_kind=True),
            *unmatched(model, "overrides", options.overrides, by_kind=True),
        ]

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model with quantisers in it; their ranges, which no count depends on, are found on the example inputs."""
        from mcomp.quantization import calibrate

        def change(model: nn.Module) -> nn.Module:
            converted = _converted(model, incoming.example_inputs, options)
            calibrate(converted, [incoming.example_inputs], "minmax")
            return converted

        return incoming.through(change)

    @classmethod
    def work(cls, options: Any) -> Work:
        """Calibration, training where there is any, and the test images before and after it."""
        training = options if options.epochs else None
        evaluations = 2 if training else 1
        sample = options.calibration_samples
        return Work(training, evaluations=evaluations, calibration=sample, fixed_seconds=CONVERT_SECONDS)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Convert, calibrate on training images, train, and measure on test."""
        from mcomp.quantization import calibrate, describe
        from mcomp.quantization.summary import conversion_route, float_layers, quantized_layers

        data = ctx.require_data()
        model = _converted(ctx.model, ctx.example_inputs, options)
        sample = data.train.subset(options.calibration_samples, seed=ctx.seed)
        ctx.report("status", text=f"finding activation ranges on {plural(len(sample), 'training image')}")
        calibrate(model.to(ctx.device), sample.batches(device=ctx.device), options.calibration)
        model = model.cpu()
        before = ctx.evaluate(model)
        history = fit_in(ctx, model, options).history if options.epochs else []
        after = ctx.evaluate(model) if options.epochs else before
        floats = float_layers(model)
        route, why_route = conversion_route(model)
        notes = [f"`{name}` stays float: {why}" for name, why in floats.items()]
        if route == "modules":
            notes.insert(0, f"no graph of the network was found, so each layer was converted by itself ({why_route})")
        metrics: Metrics = {
            **after,
            "top1_before_training": before["top1"],
            "layers_quantized": len(quantized_layers(model)),
            "layers_float": len(floats),
        }
        return StageResult(
            model=model,
            metrics=metrics,
            notes=notes,
            details={"tensors": describe(model), "history": history},
        )


def _converted(model: nn.Module, example_inputs: tuple[Tensor, ...], options: Any) -> nn.Module:
    from mcomp.quantization import quantize

    return quantize(
        model,
        example_inputs,
        scheme=options.scheme,
        w_bits=options.w_bits,
        a_bits=options.a_bits,
        variant=options.variant,
        levels=255 if options.levels == "auto" else options.levels,
        skip=options.skip,
        first_layer_float=options.first_layer_float,
        overrides={name: own.model_dump(exclude_none=True) for name, own in options.overrides.items()},
        per_channel=options.per_channel,
        tanh=options.tanh,
    )
