"""A float file for an engine of float precision: written, run, compared and timed like an integer one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from mcomp.deploy.beside_float import size_beside_float, speed_beside_float
from mcomp.deploy.lowering import Lowering
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.onnx_writer import to_onnx
from mcomp.deploy.settings import DeployOptions
from mcomp.deploy.verification import Verification, compare_latency, verify

if TYPE_CHECKING:
    from mcomp.data import Data
    from mcomp.metrics import Latency

FP32 = "model.fp32.onnx"


@dataclass
class FloatDelivery:
    """A verified float file; the same questions are asked of it as of :class:`mcomp.deploy.delivery.Delivery`.

    Attributes:
        model: as it came in.
        precision: of the file.
        lowering: the file.
        fp32: the same in float32: the file itself, or what it is compared with.
        verification: None without data.
        latency: of both, measured in turns.
        files: name to path.
    """

    model: nn.Module
    precision: Literal["fp16", "fp32"]
    lowering: Lowering
    fp32: Lowering
    verification: Verification | None
    latency: dict[str, Latency]
    files: dict[str, Path]

    def metrics(self) -> dict[str, float | int | str]:
        """Figures in the project's units."""
        own, fp32 = self.latency[self.precision], self.latency["fp32"]
        found: dict[str, float | int | str] = {
            "bytes": self.lowering.bytes,
            "bytes_of": "file",
            "fp32_bytes": self.fp32.bytes,
            "latency_ms": round(own.median_ms, 4),
            "latency_fp32_ms": round(fp32.median_ms, 4),
            "latency_backend": "onnxruntime",
            "latency_batch": own.batch,
            "latency_threads": own.threads,
            "speedup": round(fp32.median_ms / own.median_ms, 3),
        }
        if self.verification is not None:
            found |= {
                "top1": self.verification.top1,
                "top1_backend": "onnxruntime",
                "top1_simulated": self.verification.simulated_top1,
                "loss": self.verification.loss,
                "agreement": self.verification.agreement,
                "sqnr_db": round(self.verification.sqnr_db, 2),
            }
        return found

    def notes(self) -> list[str]:
        """Sentences for the reader of the table."""
        if self.lowering is self.fp32:
            return list(self.lowering.notes)
        file, own, fp32 = self.lowering.path.name, self.latency[self.precision], self.latency["fp32"]
        return [
            size_beside_float(file, self.lowering.bytes, self.fp32.bytes),
            speed_beside_float(file, own, fp32, "onnxruntime"),
            *self.lowering.notes,
        ]

    def details(self) -> dict[str, Any]:
        """JSON-able tables for the report."""
        return {
            "lowering": self.lowering.as_dict(),
            "latency": {name: asdict(found) for name, found in self.latency.items()},
        }


def deliver_float(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    data: Data | None,
    folder: Path,
    *,
    precision: Literal["fp16", "fp32"],
    file_name: str,
    options: DeployOptions,
    status: Callable[[str], None] = lambda text: None,
) -> FloatDelivery:
    """Write ``folder/file_name`` in float and hold it against the model.

    Args:
        model: float or quantised; of the latter the file has the weights and no activation quantiser.
        example_inputs: a batch that the model accepts.
        data: for figures (test); None skips them.
        folder: existing; also takes ``model.fp32.onnx``.
        precision: ``fp16`` keeps inputs and outputs in float32.
        file_name: e.g. ``model.trt.onnx``.
        options: of the measurement.
        status: told what is going on.

    Raises:
        StageError: the network cannot be exported (MC430, MC433).
        BackendMissingError: ONNX Runtime is not installed.
    """
    status(f"writing {file_name}")
    lowering = to_onnx(model, example_inputs, folder / file_name, "float", precision=precision)
    fp32 = lowering if precision == "fp32" else to_onnx(model, example_inputs, folder / FP32, "float")
    status("running the file in ONNX Runtime")
    sessions: dict[str, OnnxSession] = {
        name: OnnxSession(found.path, options.threads) for name, found in {precision: lowering, "fp32": fp32}.items()
    }
    verification = None if data is None else verify(sessions[precision].predict, model, data.test)
    latency = compare_latency(sessions, example_inputs, options.latency_batch, options.latency_runs)
    files = {lowering.path.name: lowering.path, fp32.path.name: fp32.path}
    return FloatDelivery(model, precision, lowering, fp32, verification, latency, files)
