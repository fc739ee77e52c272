"""INT8 for NVIDIA GPUs, through a Q/DQ file and TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mcomp.deploy.settings import DeployOptions
from mcomp.errors import BackendMissingError
from mcomp.options import Options as BaseOptions
from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.onnx_int8 import (
    DEPLOY_METRICS,
    delivered,
    delivery_work,
    missing_calibration,
    onnx_versions,
)
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from mcomp.deploy.delivery import Delivery
    from mcomp.deploy.tensorrt_engine import ShapeRange

ONNX, PLAN = "model.trt.onnx", "model.plan"


class BatchRange(BaseOptions):
    """Batch sizes that the engine takes; ``opt`` is the one it is fastest at."""

    min: int = Field(1, ge=1, description="smallest batch")
    opt: int = Field(1, ge=1, description="the batch to be fastest at")
    max: int = Field(32, ge=1, description="largest batch")

    @model_validator(mode="after")
    def _ordered(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch range min {self.min}, opt {self.opt}, max {self.max} is not in order")
        return self


@register
class TrtInt8(Stage):
    """Write an INT8 file for TensorRT, check it in ONNX Runtime, and build the engine where a GPU answers."""

    name, version = "trt_int8", 6
    traits = Traits(
        conflicts={"engine"},
        provides={"engine"},
        metrics=DEPLOY_METRICS | {"engine_top1", "engine_agreement", "engine_latency_ms", "engine_int8_layers"},
    )

    class Options(DeployOptions, StageOptions):
        """Those of :class:`mcomp.deploy.settings.DeployOptions`, and the engine's own."""

        on_missing: Literal["skip", "fail"] = Field(
            "skip", description="without TensorRT or a GPU: finish with a note, or fail (exit 7)"
        )
        batch: BatchRange = Field(BatchRange(), description="batch sizes that the engine takes")
        workspace_mb: int = Field(1024, ge=1, description="MiB that the engine's kernels may use")
        optimization_level: int = Field(3, ge=0, le=5, description="0 builds fast, 5 runs fast")

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """A float model needs calibration data."""
        return missing_calibration(cls.name, options, around)

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """Another TensorRT or GPU makes another engine; their absence is an outcome too."""
        from mcomp.deploy.tensorrt_api import installed_version
        from mcomp.training.hardware import gpu

        found = gpu()
        engine = {"tensorrt": installed_version() or "absent", "gpu": found["name"] if found else "absent"}
        return {**engine, **onnx_versions()}

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model as the file is made of it."""
        return delivered(incoming, "tensorrt")

    @classmethod
    def work(cls, options: Any) -> Work:
        """Writing and running two files, and the test images in ONNX Runtime and in PyTorch."""
        return delivery_work(options)

    @classmethod
    def missing(cls, options: Any) -> str:
        """What an engine needs, where `on_missing: fail` says that there has to be one."""
        return _absent() if options.on_missing == "fail" else ""

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``model.trt.onnx`` and the trtexec command, measure on test, then build ``model.plan``."""
        from mcomp.deploy.delivery import deliver
        from mcomp.deploy.tensorrt_engine import VERIFIED_ON, trtexec_command

        found = deliver(
            ctx.model,
            ctx.example_inputs,
            ctx.data,
            ctx.work_dir,
            target="tensorrt",
            file_name=ONNX,
            options=options,
            seed=ctx.seed,
            status=lambda text: ctx.report("status", text=text),
        )
        shapes = _shapes(ctx, options.batch)
        command = trtexec_command(ONNX, PLAN, shapes, options.workspace_mb, options.optimization_level)
        script = ctx.work_dir / "trtexec.txt"
        script.write_text(command + "\n")
        result = StageResult(
            model=found.model,
            metrics=found.metrics(),
            files={**found.files, "trtexec.txt": script},
            notes=found.notes(),
            details={**found.details(), "trtexec": command},
        )
        try:
            self._build(ctx, options, found, shapes, result)
        except BackendMissingError as error:
            if options.on_missing == "fail":
                raise
            result.notes.append(f"engine not built: {error.message} (engine verified_on: {VERIFIED_ON})")
            result.notes.append(
                "latency is ONNX Runtime's on a graph placed for TensorRT: it checks, it does not compete"
            )
            result.details["engine"] = {"status": "skipped", "reason": error.message, "verified_on": VERIFIED_ON}
        return result

    def _build(
        self, ctx: StageContext, options: Any, found: Delivery, shapes: dict[str, ShapeRange], result: StageResult
    ) -> None:
        from dataclasses import asdict

        from mcomp.deploy.tensorrt_engine import Engine, build_engine
        from mcomp.deploy.verification import verify
        from mcomp.metrics.timing import batch_of, latency

        if not _absent():
            ctx.report("status", text="building the TensorRT engine")
        plan: Path = ctx.work_dir / PLAN
        info = build_engine(
            found.lowering.path,
            plan,
            shapes,
            workspace_mb=options.workspace_mb,
            optimization_level=options.optimization_level,
            timing_cache=ctx.work_dir / "timing.cache",
        )
        engine = Engine(plan)
        inputs = tuple(batch_of(tensor, options.batch.opt) for tensor in ctx.example_inputs)
        timed = latency(lambda: engine(*inputs), runs=options.latency_runs, batch=options.batch.opt)
        result.metrics |= {"engine_latency_ms": round(timed.median_ms, 4), "engine_int8_layers": info.int8_layers}
        if ctx.data is not None:
            seen = verify(engine, found.model, ctx.data.test, batch_size=options.batch.max)
            result.metrics |= {"engine_top1": seen.top1, "engine_agreement": seen.agreement}
        result.files |= {PLAN: plan, f"{PLAN}.json": plan.with_name(f"{PLAN}.json")}
        result.notes.append(f"engine built on {info.gpu}: {info.int8_layers} of {info.layers} layers in INT8")
        result.details["engine"] = {"status": "built", **asdict(info)}


def _absent() -> str:
    """What an engine needs and is not here, in words."""
    from mcomp.deploy.tensorrt_api import installed_version
    from mcomp.training.hardware import gpu

    if not installed_version():
        return "TensorRT is not installed"
    return "" if gpu() else "no NVIDIA GPU answers"


def _shapes(ctx: StageContext, batch: BatchRange) -> dict[str, ShapeRange]:
    from mcomp.deploy.tensorrt_engine import ShapeRange

    names = ["input", *[f"input_{index}" for index in range(1, len(ctx.example_inputs))]]
    return {
        name: ShapeRange(*([size, *tensor.shape[1:]] for size in (batch.min, batch.opt, batch.max)))
        for name, tensor in zip(names, ctx.example_inputs, strict=True)
    }
