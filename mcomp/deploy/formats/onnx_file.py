"""ONNX: integers as Q/DQ for ONNX Runtime, plain float for a float model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.onnx_writer import to_onnx
from mcomp.deploy.runtime_package import load_runtime
from mcomp.quantization.summary import quantising_modules


class Onnx(Format):
    """One file of mcomp's own writer, run in ONNX Runtime."""

    name, suffix = "onnx", ".onnx"
    tolerance: ClassVar[float] = 0.05  # integer kernels round sums and biases; float files come within 1e-5

    def require(self) -> None:
        """Import it too."""
        super().require()
        load_runtime("onnxruntime")

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """As :func:`mcomp.deploy.to_onnx` does."""
        to_onnx(model, inputs, path, "onnxruntime" if quantising_modules(model) else "float")
        return Written((path,))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """In ONNX Runtime, one thread."""
        return OnnxSession(files[0]).predict
