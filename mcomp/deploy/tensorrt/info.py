"""What a plan is valid for, kept beside it as ``<plan>.json`` and checked before TensorRT sees a byte of the plan."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mcomp.deploy.tensorrt.protocols import CudaEngine, TensorRT
from mcomp.errors import StageError

VERIFIED_ON = "none"
BUILD_AGAIN = "build it again on this machine: an engine is valid for one TensorRT version and GPU"


@dataclass(frozen=True)
class EngineInfo:
    """What a plan is valid for.

    Attributes:
        tensorrt: version that built it; no other one loads it.
        gpu: name and compute capability.
        onnx_sha256: of the file it was built from.
        plan_sha256: of the plan itself.
        plan_bytes: its size.
        shapes: input to its range, of inputs with a free dimension.
        optimization_level: of the builder.
        layers: in the engine; 0 if the inspector does not say.
        int8_layers: of them, those with INT8 inputs or outputs.
        verified_on: the GPU on which its answers were held against the simulated model's.
        notes: what is worth knowing about the build.
    """

    tensorrt: str
    gpu: str
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    shapes: dict[str, dict[str, list[int]]]
    optimization_level: int
    layers: int = 0
    int8_layers: int = 0
    verified_on: str = VERIFIED_ON
    notes: list[str] = field(default_factory=list)

    def write(self, plan_path: Path) -> None:
        """Put it beside the plan."""
        info_path(plan_path).write_text(json.dumps(asdict(self), indent=1))


def info_path(plan_path: Path) -> Path:
    """``model.plan.json`` of ``model.plan``."""
    return plan_path.with_name(f"{plan_path.name}.json")


def read_info(plan_path: Path) -> EngineInfo:
    """The account beside a plan.

    Raises:
        StageError: MC440, it is missing, or no such account.
    """
    path = info_path(plan_path)
    try:
        read = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StageError(
            f"`{path.name}` is missing beside the engine",
            code="MC440",
            why="without it nobody knows for which TensorRT and GPU the engine was built",
            hint="copy it too, or build the engine again with mcomp",
        ) from None
    except ValueError:
        read = None
    known = {entry.name: entry.type for entry in fields(EngineInfo)}
    if not isinstance(read, dict) or not known.keys() - read.keys() <= {
        "layers",
        "int8_layers",
        "verified_on",
        "notes",
    }:
        raise StageError(
            f"`{path.name}` does not say what the engine beside it is valid for",
            code="MC440",
            why="it is damaged, or of another version of mcomp",
            hint=BUILD_AGAIN,
        )
    return EngineInfo(**{name: value for name, value in read.items() if name in known})


def checked_plan(plan_path: Path, info: EngineInfo, version: str, gpu: str, onnx_path: Path | None = None) -> bytes:
    """The plan's bytes, once its account says that they belong here.

    Raises:
        StageError: MC440, it was built by another TensorRT, for another GPU or from another file, or is damaged.
    """
    for what, built, here in (("TensorRT", info.tensorrt, version), ("GPU", info.gpu, gpu)):
        if built != here:
            raise StageError(
                f"engine `{plan_path.name}` was built for {what} {built}, here is {here}",
                code="MC440",
                hint=BUILD_AGAIN,
            )
    if onnx_path is not None and sha256_of(onnx_path.read_bytes()) != info.onnx_sha256:
        raise StageError(
            f"engine `{plan_path.name}` was not built from `{onnx_path.name}` as it is now",
            code="MC440",
            why=f"it was built from a file with SHA-256 {info.onnx_sha256[:12]}…",
            hint="build it again from this file",
        )
    try:
        plan = plan_path.read_bytes()
    except OSError as error:
        raise StageError(
            f"engine `{plan_path}` cannot be read: {error.strerror}", code="MC440", hint="build it again"
        ) from error
    if sha256_of(plan) != info.plan_sha256:
        raise StageError(
            f"engine `{plan_path.name}` is damaged, or another one than its account speaks of",
            code="MC440",
            why=f"{len(plan)} bytes are there, {info.plan_bytes} were written"
            if len(plan) != info.plan_bytes
            else "its bytes have changed since they were written",
            hint="copy it again, or build it again",
        )
    return plan


def sha256_of(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def count_layers(trt: TensorRT, engine: CudaEngine) -> tuple[int, int]:
    """Layers, and those of them with INT8 inputs or outputs, by the engine's own account."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return 0, 0  # a layout that is not known yet: the share is unknown, the engine is none the worse
    return len(layers), sum(_reads_or_writes_int8(layer) for layer in layers)


def _reads_or_writes_int8(layer: Any) -> bool:
    if not isinstance(layer, dict):
        return False  # a bare name: the plan was built without detailed profiling
    tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
    return any("int8" in str(tensor.get("Format/Datatype", "")).lower() for tensor in tensors)
