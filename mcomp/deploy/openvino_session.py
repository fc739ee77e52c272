"""Run an ONNX or IR file in OpenVINO on the CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcomp.errors import BackendMissingError, StageError

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
        BackendMissingError: MC618, OpenVINO is not installed.
        StageError: MC434, the file cannot be loaded.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        if find_spec("openvino") is None:
            raise BackendMissingError("OpenVINO is not installed", code="MC618", hint="pip install openvino")
        import openvino

        self.path, self.threads = Path(path), threads
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

    def predict(self, *inputs: Tensor) -> Tensor:
        """The first output for a batch: float32 tensors in, float32 tensor out, on the CPU."""
        found = self._request.infer([tensor.detach().cpu().numpy() for tensor in inputs], share_inputs=True)
        return torch.from_numpy(found[self._compiled.output(0)].copy())

    def integer_layers(self) -> tuple[int, int]:
        """Layers that multiply integers, and layers that multiply at all, in the graph that it runs."""
        kinds = [
            (info["layerType"].value, info["runtimePrecision"].value)
            for operation in self._compiled.get_runtime_model().get_ordered_ops()
            if (info := operation.get_rt_info())["layerType"].value in _MULTIPLIES
        ]
        return sum(precision in _INTEGERS for _, precision in kinds), len(kinds)


def save_ir(onnx_path: Path, path: Path) -> list[Path]:
    """Write the file as OpenVINO's own pair, ``.xml`` and ``.bin``, types as they are.

    Raises:
        StageError: MC434, OpenVINO does not take the file.
    """
    import openvino

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
