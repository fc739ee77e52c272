"""MNN: a float graph, weights in 32 bits or as integers of 8, 4 or 2 bits that are unpacked when it is loaded.

The converter is run in a process of its own: it prints, and aborts on what it does not know. It is called below its
command line program, which installs packages and reports what is converted to its makers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written, in_own_process
from mcomp.deploy.onnx_writer import to_onnx

_CONVERT = "import sys, _tools; sys.exit(0 if _tools.mnnconvert(['mnnconvert', *sys.argv[1:]]) else 1)"
_RUN = """\
import sys
import numpy as np
import MNN.expr as expr
import MNN.nn as nn
path, given, answer, *names = sys.argv[1:]
*inputs, output = names
held = np.load(given)
network = nn.load_module_from_file(path, inputs, [output])
feed = [expr.const(np.ascontiguousarray(held[n]).ravel().tolist(), list(held[n].shape), expr.NCHW) for n in inputs]
found = network.forward(feed)
found = expr.convert(found[0] if isinstance(found, (list, tuple)) else found, expr.NCHW)
np.save(answer, np.array(found.read()))
"""


class Mnn(Format):
    """``model.mnn``, from mcomp's float ONNX. Weights are the values that were trained, activations float."""

    name, suffix = "mnn", ".mnn"
    tolerance: ClassVar[float] = 1e-3
    keeps_quantisation: ClassVar[bool] = False

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Write float ONNX and convert it."""
        with TemporaryDirectory() as folder:
            lowered = to_onnx(model, inputs, Path(folder) / "model.onnx", "float")
            words = ["-f", "ONNX", "--modelFile", str(lowered.path), "--MNNModel", str(path), "--bizCode", "mcomp"]
            words += [] if weight_bits is None else ["--weightQuantBits", str(weight_bits)]
            try:
                in_own_process(_CONVERT, *words)
            except ChildProcessError as error:
                raise self.refusal(str(error)) from error
        if not path.is_file():
            raise self.refusal("its converter wrote nothing")
        return Written((path,))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """In a process of its own for each call."""
        return lambda *inputs: self._answer(files[0], inputs)

    def _answer(self, file: Path, inputs: tuple[Tensor, ...]) -> Tensor:
        names = ["input", *(f"input_{place}" for place in range(1, len(inputs)))]
        with TemporaryDirectory() as folder:
            given, answer = Path(folder) / "given.npz", Path(folder) / "answer.npy"
            held: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            np.savez(given, **held)
            try:
                in_own_process(_RUN, str(file), str(given), str(answer), *names, "output")
            except ChildProcessError as error:
                raise self.refusal(f"it runs nowhere: {error}") from error
            return torch.from_numpy(np.load(answer))
