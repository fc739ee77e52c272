"""Files and models as calls that can be timed: each in the runtimes that take it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.openvino_session import OpenVinoSession
from mcomp.errors import McompError, UsageError
from mcomp.metrics.samples import with_samples

Engine = Literal["onnxruntime", "openvino", "torch", "tensorrt"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "openvino", "torch", "tensorrt")

#: Suffix of a file to the runtimes that take it.
TAKES: dict[str, tuple[Engine, ...]] = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".pt": ("torch",),
    ".pt2": ("torch",),
    ".plan": ("tensorrt",),
}
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class Contestant:
    """Something that answers a batch.

    Attributes:
        name: for the table.
        engine: where it runs.
        bytes: on disk; None where it is no file.
        call: answers the batch it was made with.
    """

    name: str
    engine: Engine
    bytes: int | None
    call: Callable[[], object]


def of_file(path: Path, engine: Engine, inputs: tuple[Tensor, ...], threads: int, name: str = "") -> Contestant:
    """A deployed file in one runtime.

    Raises:
        UsageError: MC449, the runtime does not take such files, or not these inputs.
        BackendMissingError: the runtime is not installed (MC610, MC611, MC618).
        StageError: MC434, it cannot load the file.
    """
    if engine not in TAKES.get(path.suffix, ()):
        taken = ", ".join(TAKES.get(path.suffix, ())) or f"none; files end in {', '.join(TAKES)}"
        raise UsageError(f"`{engine}` does not run `{path.name}`", code="MC449", hint=f"runtimes for it: {taken}")
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else _outside(path) if path.suffix == ".onnx" else []
    size = sum(each.stat().st_size for each in (path, *beside) if each.is_file())
    makers: dict[Engine, Callable[[], Callable[[], object]]] = {
        "onnxruntime": lambda: _in_onnxruntime(path, inputs, threads),
        "openvino": lambda: _in_openvino(path, inputs, threads),
        "torch": lambda: _in_torch(path, inputs),
        "tensorrt": lambda: _in_tensorrt(path, inputs),
    }
    call = makers[engine]()
    try:
        call()
    except Exception as error:  # every runtime has its own
        raise UsageError(
            f"`{path.name}` does not take a batch of {[list(x.shape) for x in inputs]} in {engine}",
            code="MC449",
            why=error.message
            if isinstance(error, McompError)
            else (str(error).strip() or type(error).__name__).splitlines()[0],
            hint="bench files of one network together, at a batch size that they all take",
        ) from error
    return Contestant(name or path.name, engine, size, call)


def of_model(model: nn.Module, inputs: tuple[Tensor, ...], name: str) -> Contestant:
    """A model in PyTorch, eager, in eval mode."""
    model.eval()

    def call() -> object:
        with torch.inference_mode():
            return model(*inputs)

    return Contestant(name, "torch", None, call)


def installed(engine: Engine) -> bool:
    """Whether the runtime is there to be asked."""
    return engine == "torch" or find_spec(_PACKAGES[engine]) is not None


def inputs_of(path: Path, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Values between -2 and 2 for the inputs that an ONNX file declares, its free first axis being ``batch``.

    Raises:
        UsageError: MC443, it is no ONNX file; MC449, another axis is free, the batch is another one, or an input is no
            float.
    """
    from mcomp.deploy.qdq.check import load_onnx

    graph = load_onnx(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    made: list[Tensor] = []
    source = torch.Generator().manual_seed(seed)
    for value in graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        dims = [entry.dim_value for entry in kind.shape.dim]
        if kind.elem_type != 1 or not dims or any(dim < 1 for dim in dims[1:]):
            raise UsageError(
                f"input `{value.name}` of `{path.name}` is not a float batch of one known shape: {dims}",
                code="MC449",
                hint="bench the run that made it, which knows its inputs",
            )
        if dims[0] not in (0, batch):
            raise UsageError(
                f"`{path.name}` takes batches of {dims[0]}, not of {batch}", code="MC449", hint=f"`--batch {dims[0]}`"
            )
        made.append(4 * torch.rand((batch, *dims[1:]), generator=source) - 2)
    return tuple(made)


def batches(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """The same inputs, repeated or cut to ``batch`` samples."""
    found: tuple[Tensor, ...] = with_samples(inputs, batch)
    return found


def _outside(path: Path) -> list[Path]:
    """Files that hold tensors of an ONNX file."""
    import onnx

    stored = onnx.load(path, load_external_data=False).graph.initializer
    names = {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / name for name in sorted(names)]


def _in_onnxruntime(path: Path, inputs: tuple[Tensor, ...], threads: int) -> Callable[[], object]:
    session = OnnxSession(path, threads)
    return lambda: session.predict(*inputs)


def _in_openvino(path: Path, inputs: tuple[Tensor, ...], threads: int) -> Callable[[], object]:
    session = OpenVinoSession(path, threads)
    return lambda: session.predict(*inputs)


def _in_torch(path: Path, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    load: Any = torch.export.load if path.suffix == ".pt2" else torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript says that it is of an older kind
        loaded: Any = load(str(path))
    loaded = loaded.module() if path.suffix == ".pt2" else loaded

    def call() -> object:
        with torch.inference_mode():
            return loaded(*inputs)

    return call


def _in_tensorrt(path: Path, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    from mcomp.deploy.tensorrt import Engine as TensorRTEngine

    engine = TensorRTEngine(path)
    held = tuple(tensor.cuda() for tensor in inputs)

    def call() -> object:
        answer = engine(*held)
        torch.cuda.synchronize()
        return answer

    return call
