"""Options of the stage that builds TensorRT engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mcomp.deploy.settings import DeployOptions
from mcomp.deploy.tensorrt.shapes import disorder
from mcomp.options import Options
from mcomp.stages.base import StageOptions


class BatchRange(Options):
    """Batch sizes that the engine takes; ``opt`` is the one it is fastest at."""

    min: int = Field(1, ge=1, description="smallest batch")
    opt: int = Field(1, ge=1, description="the batch to be fastest at")
    max: int = Field(32, ge=1, description="largest batch")

    @model_validator(mode="after")
    def _ordered(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch range min {self.min}, opt {self.opt}, max {self.max} is not in order")
        return self


class InputShapes(Options):
    """Shapes of one input that the engine takes, batch included."""

    min: list[int] = Field(description="smallest shape, e.g. [1, 3, 224, 224]")
    opt: list[int] = Field(description="the shape to be fastest at")
    max: list[int] = Field(description="largest shape")

    @model_validator(mode="after")
    def _ordered(self) -> InputShapes:
        fault = disorder(self.min, self.opt, self.max)
        if fault:
            raise ValueError(fault)
        return self


class TensorRTOptions(DeployOptions, StageOptions):
    """Those of :class:`mcomp.deploy.settings.DeployOptions`, and the engine's own."""

    precision: Literal["int8", "fp16", "fp32"] = Field(
        "int8", description="what the file computes in; fp16 and fp32 take the trained weights without quantising"
    )
    rest: Literal["fp16", "fp32"] = Field(
        "fp32", description="int8: what is computed in between the integers; fp16 is faster on a GPU"
    )
    on_missing: Literal["skip", "fail"] = Field(
        "skip", description="without TensorRT or a GPU: finish with a note, or fail (exit 7)"
    )
    batch: BatchRange = Field(BatchRange(), description="batch sizes that the engine takes")
    shapes: dict[str, InputShapes] = Field(
        {}, description="input to its smallest, usual and largest shape, in place of `batch`"
    )
    workspace_mb: int = Field(1024, ge=1, description="MiB that the engine's kernels may use")
    optimization_level: int = Field(3, ge=0, le=5, description="0 builds fast, 5 runs fast")
    buffers: Literal["torch", "pycuda"] = Field("torch", description="whose GPU memory the engine is run with")
    timing_cache: str | None = Field(
        None,
        description="file of kernel times that builds share; one per TensorRT and GPU in the cache folder if left out",
        json_schema_extra={"path": True, "cache": "ignore"},
    )
    scales: str | None = Field(
        None,
        description="`calibration.json` of an earlier run, used where model, images and method are the same",
        json_schema_extra={"path": True, "cache": "ignore"},
    )
