"""INT8, or float, for NVIDIA GPUs: through an ONNX file whose types are the law, and TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import BackendMissingError
from mcomp.stages.base import Finding, Stage, StageContext, StageResult, Surroundings, Traits
from mcomp.stages.builtin.onnx_int8 import (
    DEPLOY_METRICS,
    delivered,
    delivery_work,
    missing_calibration,
    onnx_versions,
)
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register
from mcomp.stages.tensorrt_options import TensorRTOptions

if TYPE_CHECKING:
    from mcomp.deploy.delivery import Delivery
    from mcomp.deploy.float_delivery import FloatDelivery
    from mcomp.deploy.remembered_scales import RememberedScales
    from mcomp.deploy.tensorrt import ShapeRange

ONNX, PLAN, SCALES, COMMAND = "model.trt.onnx", "model.plan", "calibration.json", "trtexec.txt"


@register
class TrtInt8(Stage):
    """Write an INT8 file for TensorRT, check it in ONNX Runtime, and build the engine where a GPU answers."""

    name, version = "trt_int8", 13
    traits = Traits(
        conflicts={"engine"},
        provides={"engine"},
        metrics=DEPLOY_METRICS | {"engine_top1", "engine_agreement", "engine_latency_ms", "engine_int8_layers"},
    )
    Options = TensorRTOptions

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Integers of a float model need calibration data; floats of any model need none."""
        if options.precision == "int8":
            return missing_calibration(cls.name, options, around)
        return [
            Finding(f"`{option}` does nothing with `precision: {options.precision}`", (option,), severity="warning")
            for option, usual in (("calibration", None), ("scales", None), ("rest", "fp32"))
            if getattr(options, option) != usual
        ]

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """Another TensorRT or GPU makes another engine; their absence is an outcome too."""
        from mcomp.deploy.tensorrt.api import installed_version
        from mcomp.training.hardware import gpu

        found = gpu()
        engine = {"tensorrt": installed_version() or "absent", "gpu": found["name"] if found else "absent"}
        return {**engine, **onnx_versions()}

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model as the file is made of it."""
        return delivered(incoming, "tensorrt") if options.precision == "int8" else incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """Writing and running two files, and the test images in ONNX Runtime and in PyTorch."""
        return delivery_work(options)

    @classmethod
    def missing(cls, options: Any) -> str:
        """What an engine needs, where `on_missing: fail` says that there has to be one."""
        from mcomp.deploy.tensorrt.api import absent_engine

        return absent_engine(options.buffers) if options.on_missing == "fail" else ""

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``model.trt.onnx`` and the trtexec command, measure on test, then build ``model.plan``."""
        from mcomp.deploy.tensorrt import trtexec_command
        from mcomp.deploy.tensorrt.info import VERIFIED_ON

        found, scales = _deliver(ctx, options)
        shapes = _shapes(found.lowering.path, options)
        command = trtexec_command(ONNX, PLAN, shapes, options.workspace_mb, options.optimization_level)
        script = ctx.work_dir / COMMAND
        script.write_text(command + "\n")
        result = StageResult(
            model=found.model,
            metrics=found.metrics(),
            files={**found.files, COMMAND: script},
            notes=found.notes() + scales.notes,
            details={**found.details(), "trtexec": command},
        )
        if scales.entries:
            result.files[SCALES] = scales.write(ctx.work_dir / SCALES)
        try:
            _build(ctx, options, found, shapes, result)
        except BackendMissingError as error:
            if options.on_missing == "fail":
                raise
            result.notes.append(f"engine not built: {error.message} (engine verified_on: {VERIFIED_ON})")
            result.notes.append(
                "latency is ONNX Runtime's on a graph placed for TensorRT: it checks, it does not compete"
            )
            result.details["engine"] = {"status": "skipped", "reason": error.message, "verified_on": VERIFIED_ON}
        return result


def _deliver(ctx: StageContext, options: TensorRTOptions) -> tuple[Delivery | FloatDelivery, RememberedScales]:
    from mcomp.deploy.remembered_scales import RememberedScales

    scales = RememberedScales(Path(options.scales) if options.scales is not None else None)

    def status(text: str) -> None:
        ctx.report("status", text=text)

    if options.precision != "int8":
        from mcomp.deploy.float_delivery import deliver_float

        found: Delivery | FloatDelivery = deliver_float(
            ctx.model, ctx.example_inputs, ctx.data, ctx.work_dir,
            precision=options.precision, file_name=ONNX, options=options, status=status,
        )  # fmt: skip
        return found, scales
    from mcomp.deploy.delivery import deliver

    found = deliver(
        ctx.model, ctx.example_inputs, ctx.data, ctx.work_dir,
        target="tensorrt", file_name=ONNX, options=options, seed=ctx.seed, status=status,
        calibrator=scales, rest=options.rest,
    )  # fmt: skip
    return found, scales


def _build(
    ctx: StageContext,
    options: TensorRTOptions,
    found: Delivery | FloatDelivery,
    shapes: dict[str, ShapeRange],
    result: StageResult,
) -> None:
    from dataclasses import asdict

    from mcomp.deploy.tensorrt.api import absent_engine, load_tensorrt
    from mcomp.deploy.tensorrt.info import info_path
    from mcomp.deploy.tensorrt.trial import try_engine

    load_tensorrt()  # the first thing that a machine may lack
    if not absent_engine(options.buffers):
        ctx.report("status", text="building the TensorRT engine")
    plan = ctx.work_dir / PLAN
    tried = try_engine(
        found.lowering.path,
        plan,
        shapes,
        found.model,
        ctx.example_inputs,
        None if ctx.data is None else ctx.data.test,
        buffers=options.buffers,
        runs=options.latency_runs,
        workspace_mb=options.workspace_mb,
        optimization_level=options.optimization_level,
        timing_cache=Path(options.timing_cache) if options.timing_cache is not None else None,
    )
    info = tried.info
    result.metrics |= {"engine_latency_ms": round(tried.latency.median_ms, 4), "engine_int8_layers": info.int8_layers}
    if tried.verification is not None:
        result.metrics |= {"engine_top1": tried.verification.top1, "engine_agreement": tried.verification.agreement}
    result.files |= {PLAN: plan, f"{PLAN}.json": info_path(plan)}
    result.notes += [
        f"engine built on {info.gpu}: {info.int8_layers} of {info.layers} layers in INT8 "
        f"(engine verified_on: {info.verified_on})",
        *info.notes,
    ]
    result.details["engine"] = {"status": "built", **asdict(info)}


def _shapes(onnx_path: Path, options: TensorRTOptions) -> dict[str, ShapeRange]:
    from mcomp.deploy.tensorrt import ShapeRange, shape_ranges

    batch = (options.batch.min, options.batch.opt, options.batch.max)
    given = {name: ShapeRange(found.min, found.opt, found.max) for name, found in options.shapes.items()}
    return shape_ranges(onnx_path, batch, given)
