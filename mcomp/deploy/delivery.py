"""The way every deployed file goes: quantise if need be, write, check the rules, run, compare, time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mcomp.deploy.beside_float import size_beside_float, speed_beside_float
from mcomp.deploy.integer_agreement import Agreement, compare_integers
from mcomp.deploy.lowering import Lowering
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.onnx_writer import Precision, to_onnx
from mcomp.deploy.openvino_session import OpenVinoSession
from mcomp.deploy.preparation import Prepared, missing_ranges, prepare
from mcomp.deploy.preparation import per_channel as per_channel
from mcomp.deploy.qdq.check import check_qdq
from mcomp.deploy.qdq.rules import Violation
from mcomp.deploy.settings import NEEDS_CALIBRATION, CalibrationOptions, Deliverable, DeployOptions
from mcomp.deploy.verification import Verification, compare_latency, verify
from mcomp.errors import StageError, plural

if TYPE_CHECKING:
    from mcomp.data import Data
    from mcomp.deploy.preparation import Calibrator
    from mcomp.metrics import Latency


#: Test images that are followed through the layers.
COMPARED_IMAGES = 32


@dataclass
class Delivery:
    """A verified file.

    Attributes:
        model: the quantised model that the file was made of.
        calibrated: names of activation quantisers whose range was found now.
        added: those of them that no training knew: what layers make, where kernels end in integers.
        lowering: the file and its table.
        fp32: the float file of the incoming model.
        violations: broken performance rules; an error is raised instead.
        verification: None without data.
        backend: the runtime that gave these figures.
        latency: of ``int8`` and ``fp32``, measured in turns.
        files: name to path.
        agreement: of the simulated integers with those of the file, layer by layer; empty without data.
        bias_change: the most that a bias was moved to a whole number of the accumulator's unit.
    """

    model: nn.Module
    calibrated: list[str]
    added: list[str]
    lowering: Lowering
    fp32: Lowering
    violations: list[Violation]
    verification: Verification | None
    backend: str
    latency: dict[str, Latency]
    files: dict[str, Path] = field(default_factory=dict)
    agreement: list[Agreement] = field(default_factory=list)
    bias_change: float = 0.0

    def metrics(self) -> dict[str, float | int | str]:
        """Figures in the project's units."""
        int8, fp32 = self.latency["int8"], self.latency["fp32"]
        found: dict[str, float | int | str] = {
            "bytes": self.lowering.bytes,
            "bytes_of": "file",
            "fp32_bytes": self.fp32.bytes,
            "latency_ms": round(int8.median_ms, 4),
            "latency_fp32_ms": round(fp32.median_ms, 4),
            "latency_backend": self.backend,
            "latency_batch": int8.batch,
            "latency_threads": int8.threads,
            "speedup": round(fp32.median_ms / int8.median_ms, 3),
            "exact": "yes" if self.lowering.exact else "no",
            "max_abs_error": max(self.lowering.max_abs_error, self.bias_change),
            "violations": len(self.violations),
        }
        if self.verification is not None:
            found |= {
                "top1": self.verification.top1,
                "top1_backend": self.backend,
                "top1_simulated": self.verification.simulated_top1,
                "loss": self.verification.loss,
                "agreement": self.verification.agreement,
                "sqnr_db": round(self.verification.sqnr_db, 2),
            }
        return found

    def notes(self) -> list[str]:
        """Sentences for the reader of the table."""
        file = self.lowering.path.name
        notes = [
            size_beside_float(file, self.lowering.bytes, self.fp32.bytes),
            speed_beside_float(file, self.latency["int8"], self.latency["fp32"], self.backend),
        ]
        if self.calibrated:
            were = "was" if len(self.calibrated) == 1 else "were"
            notes.append(f"{plural(len(self.calibrated), 'activation range')} {were} calibrated, not trained")
        if self.added:
            count = len(self.added)
            which = f"{count} of them are of tensors" if count > 1 else "1 of them is of a tensor"
            notes.append(
                f"{'it is of a tensor' if len(self.calibrated) == 1 else which} that layers make, which the target's "
                "kernels want as integers; the figures include that"
            )
        notes += self.lowering.notes
        if self.agreement:
            compared, differing = (
                sum(getattr(row, name) for row in self.agreement) for name in ("elements", "differing")
            )
            notes.append(
                f"layer by layer {differing} of {compared} integers are not the simulated ones "
                f"(largest difference {max(row.largest for row in self.agreement)})"
            )
        rules: dict[str, list[str]] = {}
        for violation in self.violations:
            rules.setdefault(violation.rule, []).append(violation.node)
        for rule, nodes in rules.items():
            first = next(violation for violation in self.violations if violation.rule == rule)
            where = f"`{nodes[0]}`" if len(nodes) == 1 else f"{len(nodes)} nodes (first `{nodes[0]}`)"
            notes.append(f"{rule} at {where}: {first.message}; {first.fix}")
        return notes

    def details(self) -> dict[str, Any]:
        """JSON-able tables for the report."""
        return {
            "lowering": self.lowering.as_dict(),
            "violations": [asdict(violation) for violation in self.violations],
            "latency": {name: asdict(found) for name, found in self.latency.items()},
            "integers": [asdict(row) for row in self.agreement],
        }


def deliver(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    data: Data | None,
    folder: Path,
    *,
    target: Deliverable,
    file_name: str,
    options: DeployOptions,
    seed: int = 0,
    status: Callable[[str], None] = lambda text: None,
    calibrator: Calibrator | None = None,
    rest: Precision = "fp32",
) -> Delivery:
    """Write ``folder/file_name`` for ``target`` and prove it.

    Args:
        model: float, quantised or folded; not changed.
        example_inputs: a batch that the model accepts.
        data: for calibration (train) and figures (test); None skips both.
        folder: existing; also takes ``qparams.json`` and ``model.fp32.onnx``.
        target: the lowering profile and the rules it is held to.
        file_name: e.g. ``model.int8.onnx``.
        options: calibration and measurement.
        seed: of the calibration sample.
        status: told what is going on.
        calibrator: finds the ranges in place of :func:`mcomp.quantization.calibrate`.
        rest: of what is not integer in the file.

    Raises:
        StageError: a range is missing (MC435), or the file breaks a rule of the target (MC436).
        BackendMissingError: ONNX Runtime, or for its target OpenVINO, is not installed.
    """
    from mcomp.quantization.summary import quantising_modules

    prepared = _prepared(model, example_inputs, data, target, options.calibration, seed, status, calibrator)
    quantised, calibrated = prepared.model, prepared.calibrated
    status(f"writing {file_name}")
    scales = f"calibrated: {options.calibration.method}" if options.calibration and calibrated else "trained"
    lowering = to_onnx(
        quantised, example_inputs, folder / file_name, target, metadata={"mcomp.scales": scales}, precision=rest
    )
    fp32 = to_onnx(
        quantised if quantising_modules(model) else model, example_inputs, folder / "model.fp32.onnx", "float"
    )
    violations = check_qdq(lowering.path, target)
    _refuse_errors(violations, target)
    qparams = folder / "qparams.json"
    qparams.write_text(json.dumps(lowering.as_dict(), indent=1))
    backend = "openvino" if target == "openvino" else "onnxruntime"
    status(f"running the file in {'OpenVINO' if target == 'openvino' else 'ONNX Runtime'}")
    run: type[OnnxSession] | type[OpenVinoSession] = OpenVinoSession if target == "openvino" else OnnxSession
    sessions = {"int8": run(lowering.path, options.threads), "fp32": run(fp32.path, options.threads)}
    # a graph for TensorRT is computed as it is written: ONNX Runtime's kernels would round its biases
    simulated = target == "tensorrt"
    checked = OnnxSession(lowering.path, options.threads, simulate=True) if simulated else sessions["int8"]
    verification = None if data is None else verify(checked.predict, _measured(model, quantised), data.test)
    agreement = _layer_by_layer(lowering.path, quantised, data, simulate=target != "onnxruntime")
    latency = compare_latency(sessions, example_inputs, options.latency_batch, options.latency_runs)
    if isinstance(sessions["int8"], OnnxSession) and sessions["int8"].simulated:
        lowering.notes.append("this processor has no exact integer kernels for the file: it was run and timed in float")
    files = {file_name: lowering.path, "qparams.json": qparams, "model.fp32.onnx": fp32.path}
    lowering.notes[:0] = prepared.notes
    found = Delivery(quantised, calibrated, prepared.added, lowering, fp32, violations, verification, backend, latency)
    found.files, found.agreement, found.bias_change = files, agreement, prepared.bias_change
    return found


def _measured(model: nn.Module, quantised: nn.Module) -> nn.Module:
    """The network that the stage before measured, where it was quantised: not what a target made of it since."""
    from mcomp.quantization.summary import quantising_modules

    return model if quantising_modules(model) and not missing_ranges(model) else quantised


def _layer_by_layer(path: Path, model: nn.Module, data: Data | None, *, simulate: bool) -> list[Agreement]:
    """Of one batch of test images: is what each layer makes of the simulated integers what was simulated?"""
    if data is None:
        return []
    images, _ = next(iter(data.test.batches(COMPARED_IMAGES)))
    return compare_integers(path, model, images, simulate=simulate)


def _prepared(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    data: Data | None,
    target: Deliverable,
    calibration: CalibrationOptions | None,
    seed: int,
    status: Callable[[str], None],
    calibrator: Calibrator | None,
) -> Prepared:
    """The model with every range known; trained ranges stay."""
    from mcomp.quantization.summary import quantising_modules

    if not quantising_modules(model) and (calibration is None or data is None):
        raise StageError(
            "a float model cannot be deployed as INT8 without calibration data",
            code="MC435",
            hint=NEEDS_CALIBRATION if data is not None else "pass `data=`, and `calibration=`",
        )

    def batches() -> Iterable[Tensor | tuple[Tensor, ...]]:
        assert data is not None
        sample = data.train.subset(wanted.samples, seed=seed)
        status(f"finding activation ranges on {plural(len(sample), 'training image')}")
        return sample.batches()

    wanted = calibration or CalibrationOptions(method="mse")  # of the least squared error, for what no training saw
    known = calibration is not None or not missing_ranges(model)
    given = batches if data is not None and known else None
    return prepare(model, example_inputs, target, given, method=wanted.method, calibrator=calibrator)


def _refuse_errors(violations: list[Violation], target: Deliverable) -> None:
    errors = [violation for violation in violations if violation.severity == "error"]
    if errors:
        first = errors[0]
        raise StageError(
            f"the file breaks {plural(len(errors), 'rule')} of {target}, "
            f"first {first.rule} at `{first.node}`: {first.message}",
            code="MC436",
            hint=first.fix,
        )
