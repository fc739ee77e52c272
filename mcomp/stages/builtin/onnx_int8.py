"""INT8 for any CPU, through ONNX Runtime."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from mcomp.deploy.settings import NEEDS_CALIBRATION, Deliverable, DeployOptions
from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.forecast import (
    BYTES_PER_PARAMETER,
    DELIVERY_BYTES,
    DELIVERY_EVALUATIONS,
    DELIVERY_SECONDS,
    Forecast,
    Work,
)
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import nn


#: What every deploying stage measures of its file in ONNX Runtime.
DEPLOY_METRICS = frozenset(
    {
        "top1", "top1_backend", "top1_simulated", "loss", "agreement", "sqnr_db", "fp32_bytes", "latency_fp32_ms",
        "latency_backend", "latency_batch", "latency_threads", "speedup", "exact", "max_abs_error", "violations",
        "bytes_of",
    }
)  # fmt: skip


@register
class OnnxInt8(Stage):
    """Write an INT8 ONNX file for ONNX Runtime, run it, and compare it with the simulated model."""

    name, version = "onnx_int8", 10
    traits = Traits(provides={"onnx"}, metrics=DEPLOY_METRICS)

    class Options(DeployOptions, StageOptions):
        """Those of :class:`mcomp.deploy.settings.DeployOptions`."""

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """A float model needs calibration data."""
        return missing_calibration(cls.name, options, around)

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """The packages that write and run the file decide its bytes, its figures and its speed."""
        return onnx_versions()

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model as the file is made of it."""
        return delivered(incoming, "onnxruntime")

    @classmethod
    def work(cls, options: Any) -> Work:
        """Writing and running two files, and the test images in ONNX Runtime and in PyTorch."""
        return delivery_work(options)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``model.int8.onnx`` and measure it on test."""
        from mcomp.deploy.delivery import deliver

        found = deliver(
            ctx.model,
            ctx.example_inputs,
            ctx.data,
            ctx.work_dir,
            target="onnxruntime",
            file_name="model.int8.onnx",
            options=options,
            seed=ctx.seed,
            status=lambda text: ctx.report("status", text=text),
        )
        return StageResult(
            model=found.model, metrics=found.metrics(), files=found.files, notes=found.notes(), details=found.details()
        )


def onnx_versions() -> dict[str, str]:
    """Versions of onnx and onnxruntime, from the package metadata."""
    return {package: metadata.version(package) for package in ("onnx", "onnxruntime")}


def missing_calibration(stage: str, options: DeployOptions, around: Surroundings) -> list[Finding]:
    """The static fault of deploying a float model with nothing to find its ranges on."""
    if "quantized" in around.have or options.calibration is not None:
        return []
    return [
        Finding(
            f"{stage} on a float model needs calibration data: {NEEDS_CALIBRATION}",
            option=("calibration",),
            code="MC121",
        )
    ]


def delivered(incoming: Forecast, target: Deliverable) -> Forecast:
    """What :func:`mcomp.deploy.delivery.deliver` makes of a model before it writes it."""
    from mcomp.deploy.delivery import per_channel
    from mcomp.quantization import calibrate, fold_batch_norms
    from mcomp.quantization.summary import quantising_modules

    def change(model: nn.Module) -> nn.Module:
        if quantising_modules(model):
            return model
        inputs = incoming.example_inputs
        quantised = per_channel(model, inputs, target)
        calibrate(quantised, [inputs], "minmax")
        return fold_batch_norms(quantised, inputs).model

    return incoming.through(change)


def delivery_work(options: DeployOptions) -> Work:
    """What a deploying stage spends its time on."""
    return Work(
        evaluations=DELIVERY_EVALUATIONS,
        calibration=options.calibration.samples if options.calibration is not None else 0,
        fixed_seconds=DELIVERY_SECONDS,
        extra_memory_bytes=DELIVERY_BYTES,
        files=BYTES_PER_PARAMETER,
    )
