"""Run an ONNX or IR file in OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.runtime_package import load_runtime
from mcomp.deploy.session_inputs import DeclaredInput, check_file, check_inputs, checked_threads
from mcomp.errors import StageError

_MULTIPLIES = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul", "Gemm")
_INTEGERS = ("u8", "i8")
#: Says in how large groups a float tensor is quantised that meets an integer weight; 0 leaves it alone.
_REQUANTISING = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class OpenVinoSession:
    """A file ready to run, its float parts in float32, one stream.

    Args:
        path: ``.onnx`` or ``.xml``.
        threads: of one inference.

    Raises:
        UsageError: MC445, the path is none; MC427, the threads are no number above 0.
        BackendMissingError: MC618, OpenVINO is not installed or cannot be imported.
        StageError: MC434, the file cannot be loaded.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        openvino = load_runtime("openvino")
        self.path, self.threads = checked_path(path), checked_threads(threads)
        check_file(self.path)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        settings[_REQUANTISING] = "0"
        try:
            self._compiled: Any = openvino.Core().compile_model(self.path, "CPU", settings)
        except Exception as error:  # its exceptions share no base class but RuntimeError
            raise StageError(
                f"OpenVINO cannot load `{path}`",
                code="MC434",
                why=_cause(error),
                hint="check the file with `mcomp.deploy.check_qdq(path, target='openvino')`",
            ) from error
        self._request: Any = self._compiled.create_infer_request()
        self._declared = [_declared(value) for value in self._compiled.inputs]

    def predict(self, *inputs: Tensor) -> Tensor:
        """The first output for a batch: float32 tensors in, float32 tensor out, on the CPU.

        Raises:
            UsageError: MC429, the inputs are not those that the file takes.
            StageError: MC434, OpenVINO breaks off.
        """
        check_inputs(self.path.name, self._declared, inputs)
        try:
            found = self._request.infer([tensor.detach().cpu().numpy() for tensor in inputs], share_inputs=True)
        except Exception as error:  # its exceptions share no base class but RuntimeError
            raise StageError(
                f"OpenVINO cannot run `{self.path.name}` on {', '.join(str(list(x.shape)) for x in inputs)}",
                code="MC434",
                why=_cause(error),
                hint="the file may hold the batch that it was exported with: use one of that size",
            ) from error
        return torch.from_numpy(found[self._compiled.output(0)].copy())

    def integer_layers(self) -> tuple[int, int]:
        """Layers that multiply integers, and layers that multiply at all, in the graph that it runs."""
        kinds = [
            (info["layerType"].value, info["runtimePrecision"].value)
            for operation in self._compiled.get_runtime_model().get_ordered_ops()
            if (info := operation.get_rt_info())["layerType"].value in _MULTIPLIES
        ]
        return sum(precision in _INTEGERS for _, precision in kinds), len(kinds)


def _declared(value: Any) -> DeclaredInput:
    """An input of the file, under the name that its writer gave it."""
    shape = value.get_partial_shape()
    sizes = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
    kind = getattr(torch, value.get_element_type().to_dtype().name, None)  # numpy's name of it
    return DeclaredInput(value.get_any_name(), kind, sizes)


def save_ir(onnx_path: Path, path: Path) -> list[Path]:
    """Write the file as OpenVINO's own pair, ``.xml`` and ``.bin``, types as they are.

    Raises:
        BackendMissingError: MC618, OpenVINO is not installed or cannot be imported.
        StageError: MC434, OpenVINO does not take the file.
    """
    openvino = load_runtime("openvino")
    try:
        converted = openvino.convert_model(onnx_path)
    except Exception as error:  # its exceptions share no base class but RuntimeError
        raise StageError(
            f"OpenVINO does not take `{onnx_path.name}`",
            code="MC434",
            why=_cause(error),
            hint="replace the operation that it names",
        ) from error
    converted.set_rt_info("0", ["runtime_options", _REQUANTISING])  # whoever loads the pair computes what was measured
    openvino.save_model(converted, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def _cause(error: Exception) -> str:
    """What OpenVINO says below the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "While validating"))]
    return "; ".join((told or lines or [type(error).__name__])[:3])
