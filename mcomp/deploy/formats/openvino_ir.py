"""OpenVINO's intermediate representation: ``model.xml`` beside ``model.bin``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written
from mcomp.deploy.onnx_writer import to_onnx
from mcomp.deploy.openvino_session import OpenVinoSession, save_ir
from mcomp.deploy.runtime_package import load_runtime
from mcomp.quantization.summary import quantising_modules


class OpenVinoIR(Format):
    """Converted from the Q/DQ graph of the profile `openvino`, which it runs in integers."""

    name, suffix = "openvino", ".xml"
    tolerance: ClassVar[float] = 0.05  # integer kernels

    def require(self) -> None:
        """Import it too."""
        super().require()
        load_runtime("openvino")

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Write ONNX, convert it, save both halves in float32 and int8 as they are."""
        with TemporaryDirectory() as folder:
            lowered = to_onnx(
                model, inputs, Path(folder) / "model.onnx", "openvino" if quantising_modules(model) else "float"
            )
            return Written(tuple(save_ir(lowered.path, path)))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """On the CPU, in the precision that the file says."""
        return OpenVinoSession(files[0]).predict
