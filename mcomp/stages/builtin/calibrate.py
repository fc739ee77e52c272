"""Post-training quantisation: ranges from data, weights corrected without a gradient step on the task."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from mcomp.errors import plural
from mcomp.options import Options as BaseOptions
from mcomp.stages.base import Finding, Metrics, StageContext, StageResult, Surroundings, Traits
from mcomp.stages.converting_stage import (
    CONVERTING_METRICS,
    ConvertingStage,
    calibrated,
    converted_result,
    measured_layers,
)
from mcomp.stages.forecast import CONVERT_SECONDS, Work
from mcomp.stages.quantization_options import QuantizationOptions, converted
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.quantization.equalization import Equalized


class AdaRound(BaseOptions):
    """How weights learn to be rounded up or down."""

    iterations: int = Field(1000, ge=1, description="optimiser steps per layer")
    lr: float = Field(0.01, gt=0, description="of these steps (Adam)")


def _plain_yes(value: Any) -> Any:
    """``true`` is the usual way, ``false`` is none."""
    return {} if value is True else None if value is False else value


@register
class Calibrate(ConvertingStage):
    """Quantise without training: activation ranges from data, and what can be done for the weights beside it."""

    name, version = "calibrate", 9
    traits = Traits(
        requires={"bn"},
        provides={"quantized"},
        destroys={"float"},
        metrics=CONVERTING_METRICS | {"pairs_equalized", "weights_moved"},
    )

    class Options(QuantizationOptions):
        equalize: bool = Field(
            False,
            description="balance the channels of neighbouring layers first (Nagel 2019); for one scale per tensor",
        )
        reestimate_bn: int | None = Field(
            None, ge=1, description="measure batch norm statistics anew, behind quantised weights, on so many batches"
        )
        adaround: Annotated[
            AdaRound | None, BeforeValidator(_plain_yes, json_schema_input_type=bool | AdaRound | None)
        ] = Field(None, description="learn whether each weight is rounded up or down: true, or {iterations, lr}")
        bias_correction: bool = Field(
            False, description="give each output channel the mean back that it has in the float model (Nagel 2019)"
        )

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of an override that the skip list hides, and of rounding that has nothing to decide."""
        found = super().check(options, around)
        if options.adaround is not None and options.scheme == "wbwtab":
            text = "`adaround` decides nothing: binary and ternary weights are not rounded to the nearest level"
            found.append(Finding(text, option=("adaround",), severity="warning"))
        return found

    @classmethod
    def work(cls, options: Any) -> Work:
        """Calibration, further passes over the same images, and the test images once."""
        passes = 1 + options.equalize + 10 * options.bias_correction + 20 * (options.adaround is not None)
        return Work(calibration=options.calibration_samples * passes, fixed_seconds=CONVERT_SECONDS)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Equalise, convert, calibrate, measure statistics, round, correct, and measure on test."""
        from mcomp.quantization import adaptive_rounding, correct_bias, equalize, is_quantized, restore_float

        source = restore_float(ctx.model) if is_quantized(ctx.model) else ctx.model
        corrects = options.equalize or options.adaround is not None or options.bias_correction
        sample = self._sample(ctx, options.calibration_samples) if corrects else []
        notes: list[str] = []
        metrics: Metrics = {"pairs_equalized": 0, "weights_moved": 0}
        if options.equalize:
            found = equalize(source, ctx.example_inputs, [batch.cpu() for batch in sample])
            source, metrics["pairs_equalized"] = found.model, len(found.pairs)
            notes.append(_said(found))
        model = self._converted(ctx, source, options)
        source = source.to(ctx.device)
        model = model.to(ctx.device)
        if options.adaround is not None:
            ctx.report("status", text="learning how to round each weight")
            rows = adaptive_rounding(
                model, source, sample, iterations=options.adaround.iterations, lr=options.adaround.lr, seed=ctx.seed
            )
            metrics["weights_moved"] = sum(row.moved for row in rows)
            notes += [f"`{row.layer}` is rounded to the nearest level: {row.why}" for row in rows if row.why]
            if metrics["weights_moved"]:
                notes.append(_LEARNED)
        if options.bias_correction:
            ctx.report("status", text="correcting biases")
            left = correct_bias(model, source, sample).left
            notes += [f"`{name}` has neither a bias nor a batch norm to correct" for name in left]
        model = model.cpu()
        result = converted_result(model, {**ctx.evaluate(model), **metrics})
        result.details.update(measured_layers(ctx, model, options.sensitivity))
        result.notes += notes
        return result

    def _converted(self, ctx: StageContext, source: nn.Module, options: Any) -> nn.Module:
        """Quantised, ranges known; with new batch norm statistics the ranges are found again behind them."""
        from mcomp.quantization import reestimate_batch_norms

        fresh = converted(source, ctx.example_inputs, options)
        if options.reestimate_bn is None:
            return calibrated(ctx, fresh, options)
        measured = calibrated(ctx, copy.deepcopy(fresh), options).to(ctx.device)
        data = ctx.require_data()
        batches = data.train.subset(options.reestimate_bn * data.batch_size, seed=ctx.seed)
        norms = reestimate_batch_norms(measured, batches.batches(data.batch_size, device=ctx.device))
        state = measured.cpu().state_dict()
        kept = {f"{name}.{what}": state[f"{name}.{what}"] for name in norms for what in ("running_mean", "running_var")}
        fresh.load_state_dict(kept, strict=False)
        return calibrated(ctx, fresh, options)

    def _sample(self, ctx: StageContext, images: int) -> list[Tensor]:
        sample = ctx.require_data().train.subset(images, seed=ctx.seed)
        return [inputs for inputs, _ in sample.batches(device=ctx.device)]


_LEARNED = (
    "the float weights are those that learned rounding left, on their grid: the report of each layer compares with "
    "them, and a later `quantize` starts from them; the float network stands in the stage before this one"
)


def _said(found: Equalized) -> str:
    text = f"{plural(len(found.pairs), 'pair')} of layers equalised"
    if found.rows:
        text += f", the filters of {plural(len(found.rows), 'layer')} evened in front of batch norms"
    if found.absorbed:
        text += f", the biases of {plural(sum(found.absorbed.values()), 'channel')} absorbed"
    return text
