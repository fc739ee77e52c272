"""Run an ONNX file in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.runtime_package import load_runtime
from mcomp.deploy.session_inputs import DeclaredInput, check_file, check_inputs, checked_threads
from mcomp.errors import StageError
from mcomp.training.hardware import cpu_flags

if TYPE_CHECKING:
    from mcomp.data import Split


class OnnxSession:
    """An ONNX file ready to run.

    Args:
        path: the file.
        threads: of one operator; operators run one after the other.
        simulate: compute Q/DQ exactly as written, in float, in place of integer kernels, which round biases; so a
            graph for another runtime is checked.
        save_optimized: where to write the graph as ONNX Runtime rewrote it, to see which kernels it took.

    Attributes:
        simulated: whether Q/DQ are computed in float, as asked or because this processor has no exact kernels for the
            file.

    Raises:
        UsageError: MC445, the path is none; MC427, the threads are no number above 0.
        BackendMissingError: MC610, onnxruntime is not installed or cannot be imported.
        StageError: MC434, the file cannot be loaded.
    """

    def __init__(
        self, path: str | Path, threads: int = 1, *, simulate: bool = False, save_optimized: Path | None = None
    ) -> None:
        load_runtime("onnxruntime")
        self.path, self.threads = checked_path(path), checked_threads(threads)
        check_file(self.path)
        try:
            self._session: Any
            self._session, self.simulated = _opened(self.path, threads, simulate, save_optimized)
        except Exception as error:  # its exceptions share no base class but Exception
            raise StageError(
                f"ONNX Runtime cannot load `{path}`",
                code="MC434",
                why=str(error).strip().splitlines()[0],
                hint="check the file with `mcomp.deploy.check_qdq(path)`",
            ) from error
        self._declared = [_declared(value) for value in self._session.get_inputs()]
        self.input_names: list[str] = [each.name for each in self._declared]

    def predict(self, *inputs: Tensor) -> Tensor:
        """The first output for a batch of any size: float32 tensors in, float32 tensor out, on the CPU.

        Raises:
            UsageError: MC429, the inputs are not those that the file takes.
            StageError: MC434, ONNX Runtime breaks off.
        """
        check_inputs(self.path.name, self._declared, inputs)
        feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(self.input_names, inputs, strict=True)}
        return torch.from_numpy(self._run(None, feed)[0])

    def arrays(self, names: list[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Any outputs of the file by name, for inputs of any type by name.

        Raises:
            StageError: MC434, ONNX Runtime does not have or take them.
        """
        return self._run(names, dict(feeds))

    def _run(self, names: list[str] | None, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(names, feed)
        except Exception as error:  # its exceptions share no base class but Exception
            shapes = ", ".join(f"`{name}` {list(array.shape)}" for name, array in feed.items())
            raise StageError(
                f"ONNX Runtime cannot run `{self.path.name}` on {shapes or 'no input'}",
                code="MC434",
                why=str(error).strip().splitlines()[0],
                hint="the file may hold the batch that it was exported with: use one of that size",
            ) from error
        return found

    def logits(self, split: Split, batch_size: int = 256) -> Tensor:
        """``(samples, classes)`` over a whole split, in its order."""
        return torch.cat([self.predict(images) for images, _ in split.batches(batch_size)])


#: ONNX Runtime's words for types that tensors of torch have.
_TYPES = {
    "float": torch.float32, "float16": torch.float16, "double": torch.float64, "bfloat16": torch.bfloat16,
    "int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "bool": torch.bool,
}  # fmt: skip


def _declared(value: Any) -> DeclaredInput:
    """An input of the file; ONNX Runtime says `[]` of a shape that is not told, and names or None of a free axis."""
    sizes = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    return DeclaredInput(value.name, _TYPES.get(kind), sizes or None)


def _opened(path: Path, threads: int, simulate: bool, save_optimized: Path | None) -> tuple[Any, bool]:
    """A session whose 8-bit products are exact on every processor, and whether it computes Q/DQ in float."""
    exact = bool({"avx512_vnni", "avx_vnni"} & cpu_flags())  # 8-bit products are added up in 32 bits
    try:
        return _session(path, threads, save_optimized, simulate=simulate, exact_kernels=not exact), simulate
    except Exception as error:
        if exact or _SHARED_WEIGHT not in str(error):
            raise
    # its rewrite for such processors handles no weight that several nodes read (seen in 1.31): then in float
    return _session(path, threads, save_optimized, simulate=True, exact_kernels=False), True


_SHARED_WEIGHT = "Attempt to replace the existing tensor"


def _session(path: Path, threads: int, save_optimized: Path | None, *, simulate: bool, exact_kernels: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised too
    if exact_kernels:  # without VNNI, u8 x s8 products saturate in 16 bits; this takes exact kernels there
        options.add_session_config_entry("session.x64quantprecision", "1")
    # of a weight beside a float activation it makes a product that quantises the activation too, unless told not to
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if simulate:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
