"""OpenVINO's intermediate representation: ``model.xml`` beside ``model.bin``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written
from mcomp.deploy.onnx_writer import to_onnx
from mcomp.quantization.summary import quantising_modules


class OpenVinoIR(Format):
    """Converted from the Q/DQ graph of the profile `openvino`, which it runs in integers."""

    name, suffix = "openvino", ".xml"
    tolerance: ClassVar[float] = 0.05  # integer kernels

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Write ONNX, convert it, save both halves in float32 and int8 as they are."""
        import openvino

        with TemporaryDirectory() as folder:
            lowered = to_onnx(
                model, inputs, Path(folder) / "model.onnx", "openvino" if quantising_modules(model) else "float"
            )
            converted = openvino.convert_model(lowered.path)
            openvino.save_model(converted, path, compress_to_fp16=False)
        return Written((path, path.with_suffix(".bin")))

    def run(self, written: Written, inputs: tuple[Tensor, ...]) -> Tensor:
        """On the CPU, in the precision that the file says."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
        compiled = openvino.Core().compile_model(written.files[0], "CPU", settings)
        found = compiled([tensor.numpy() for tensor in inputs])
        return torch.from_numpy(found[compiled.output(0)].copy())
