"""What stages that convert a model to its quantised form share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from mcomp.errors import plural
from mcomp.quantization.schemes import OFF
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageResult, Surroundings
from mcomp.stages.forecast import Forecast
from mcomp.stages.quantization_options import (
    LayerChoice,
    QuantizationOptions,
    converted,
    override_findings,
    unmatched_layers,
)
from mcomp.stages.searched import SEARCH, not_searched

if TYPE_CHECKING:
    from torch import nn

#: Training images that the report of each layer looks at.
REPORT_IMAGES = 128

#: What every stage reports that converts.
CONVERTING_METRICS = frozenset({"top1", "loss", "layers_quantized", "layers_float"})


class ConvertingStage(Stage):
    """A stage whose result is a quantised model; its options are :class:`QuantizationOptions`."""

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        """Nothing is left to the scheme or to ``auto``."""
        return options.completed(around)

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of an override that the skip list hides; a file of overrides must be one, and ranges be held."""
        return [
            *override_findings(options),
            *_ranges_not_held(options, around),
            *not_searched("bits", options.bits, around),
        ]

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return unmatched_layers(model, options)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model with quantisers in it; their ranges, which no count depends on, are found on the example inputs."""
        from mcomp.quantization import calibrate

        if options.bits == SEARCH:  # the same layers with the same quantisers: no count depends on their bits
            options = options.model_copy(update={"bits": None})

        def change(model: nn.Module) -> nn.Module:
            made = converted(model, incoming.example_inputs, options)
            calibrate(made, [incoming.example_inputs], "minmax")
            return made

        return incoming.through(change)


def _ranges_not_held(options: QuantizationOptions, around: Surroundings) -> list[Finding]:
    """A fault for every place that asks for ranges at run time though a stage follows whose engine takes none."""
    following = itertools.takewhile(lambda stage: stage not in _CONVERTING, around.after)
    target = next((stage for stage in following if stage in _HOLD_RANGES), None)
    if target is None:
        return []
    asked: dict[tuple[str, ...], QuantizationOptions | LayerChoice] = {(): options}
    asked |= {("overrides", pattern): own for pattern, own in options.overrides.items()}
    return [
        Finding(
            f"`dynamic` finds activation ranges at run time, and TensorRT (`{target}`) takes constant ones only",
            option=(*place, "a_scheme" if own.a_scheme is not None else "scheme"),
            hint="take another scheme for activations, `a_scheme: iao` say, or `onnx_int8` in place of that stage",
        )
        for place, own in asked.items()
        if (own.a_scheme or own.scheme) == "dynamic" and own.a_bits != OFF
    ]


#: Stages whose files hold every range, and those that decide anew how activations are quantised.
_HOLD_RANGES = ("trt_int8",)
_CONVERTING = ("quantize", "calibrate")


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
    from mcomp.quantization.summary import (
        conversion_route,
        float_layers,
        overruled,
        quantising_modules,
        quantized_layers,
    )

    floats = float_layers(model)
    route, why_route = conversion_route(model)
    notes = [f"`{name}` stays float: {why}" for name, why in floats.items()]
    for place, quantizer in quantizers(model).items():
        notes += [f"{asked}, but `{place}` has another grid for another reader" for asked in overruled(quantizer)]
    if route == "modules":
        notes.insert(0, f"no graph of the network was found, so each layer was converted by itself ({why_route})")
        if any(isinstance(module, BinaryActivation) for module in model.modules()):
            notes.insert(1, "no ReLU gave way to a sign: what a layer reads behind one has the sign 1 everywhere")
    if not quantising_modules(model):
        notes.insert(0, "32 bits throughout: nothing is quantised")
    counts: Metrics = {"layers_quantized": len(quantized_layers(model)), "layers_float": len(floats)}
    return StageResult(model=model, metrics={**metrics, **counts}, notes=notes, details={"tensors": describe(model)})
