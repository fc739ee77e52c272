"""Options that the deploying stages share. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mcomp.options import Options

#: Targets that a stage delivers a file for.
Deliverable = Literal["onnxruntime", "openvino", "tensorrt"]

#: How a float model becomes deployable; in every message that misses it.
NEEDS_CALIBRATION = "add `quantize` before it or give `calibration: {method: entropy, samples: 512}`"


class CalibrationOptions(Options):
    """How ranges are found that no training has set."""

    method: Literal["minmax", "percentile", "entropy", "mse"] = Field(
        "entropy", description="what decides where a range is cut"
    )
    samples: int = Field(512, ge=1, description="training images, unaugmented, the ranges are found on")


class DeployOptions(Options):
    """Options of every stage that writes and measures a file."""

    calibration: CalibrationOptions | None = Field(
        None, description="ranges of tensors that have none; needed where no `quantize` came before"
    )
    threads: int = Field(1, ge=1, description="threads of the runtime while measuring")
    latency_batch: int = Field(1, ge=1, description="images per call while measuring latency")
    latency_runs: int = Field(30, ge=1, description="timed calls; float and int8 take turns")
