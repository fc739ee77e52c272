"""INT8 for OpenVINO."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mcomp.deploy.settings import DeployOptions
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
    from torch import nn


@register
class OpenVinoInt8(Stage):
    """Write an INT8 file for OpenVINO, run it there, and compare it with the simulated model."""

    name, version = "openvino_int8", 7
    traits = Traits(provides={"openvino"}, metrics=DEPLOY_METRICS | {"integer_layers", "multiplying_layers"})

    class Options(DeployOptions, StageOptions):
        """Those of :class:`mcomp.deploy.settings.DeployOptions`."""

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """A float model needs calibration data."""
        return missing_calibration(cls.name, options, around)

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """None; where OpenVINO is installed and cannot be imported, its error is raised."""
        from mcomp.deploy.runtime_package import load_runtime

        if find_spec("openvino") is not None:
            load_runtime("openvino")
        return []

    @classmethod
    def missing(cls, options: Any) -> str:
        """OpenVINO is an extra."""
        from mcomp.deploy.runtime_package import absent

        return absent("openvino")

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """The packages that write and run the file decide its bytes, its figures and its speed."""
        present = find_spec("openvino") is not None
        return {**onnx_versions(), "openvino": metadata.version("openvino") if present else "absent"}

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model as the file is made of it."""
        return delivered(incoming, "openvino")

    @classmethod
    def work(cls, options: Any) -> Work:
        """Writing and running two files, and the test images in OpenVINO and in PyTorch."""
        return delivery_work(options)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``model.openvino.onnx``, and ``model.xml`` beside ``model.bin``, and measure on test."""
        from mcomp.deploy.beside_float import size_beside_float
        from mcomp.deploy.delivery import deliver
        from mcomp.deploy.openvino_session import OpenVinoSession, save_ir

        found = deliver(
            ctx.model,
            ctx.example_inputs,
            ctx.data,
            ctx.work_dir,
            target="openvino",
            file_name="model.openvino.onnx",
            options=options,
            seed=ctx.seed,
            status=lambda text: ctx.report("status", text=text),
        )
        pair = save_ir(found.lowering.path, ctx.work_dir / "model.xml")
        integer, multiplying = OpenVinoSession(pair[0], options.threads).integer_layers()
        notes = found.notes()
        size = sum(path.stat().st_size for path in pair)
        if size > found.fp32.bytes:
            notes.insert(0, size_beside_float("model.xml` and its `.bin", size, found.fp32.bytes))
        if integer < multiplying:
            notes.append(f"OpenVINO runs {integer} of {multiplying} convolutions and matrix products in integers")
        return StageResult(
            model=found.model,
            metrics={
                **found.metrics(),
                "bytes": size,
                "bytes_of": "files",
                "integer_layers": integer,
                "multiplying_layers": multiplying,
            },
            files={**found.files, **{path.name: path for path in pair}},
            notes=notes,
            details=found.details(),
        )
