"""ncnn, through pnnx: float weights in 32 or 16 bits.

Its INT8 tables come from programs that its Python package does not hold, so activations stay float here.
"""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written, in_own_process
from mcomp.deploy.formats.plain_model import plain_model

_RUN = """\
import sys
import numpy as np
import ncnn
param, binary, given, answer = sys.argv[1:]
network = ncnn.Net()
network.opt.num_threads = 1
network.opt.use_fp16_arithmetic = network.opt.use_bf16_storage = False
if network.load_param(param) or network.load_model(binary):
    sys.exit("it cannot load the files")
held = np.load(given)
inputs = [held[str(place)] for place in range(len(held.files))]
rows = []
for sample in zip(*inputs):
    extractor = network.create_extractor()
    mats = [ncnn.Mat(np.ascontiguousarray(x)).clone() for x in sample]  # a Mat borrows its memory
    for name, mat in zip(network.input_names(), mats):
        extractor.input(name, mat)
    failed, output = extractor.extract(network.output_names()[0])
    if failed:
        sys.exit(f"it stopped with {failed}")
    rows.append(np.array(output).copy())
np.save(answer, np.stack(rows))
"""


class Ncnn(Format):
    """``model.param`` beside ``model.bin``, for one sample at a time. Weights are the values that were trained."""

    name, suffix = "ncnn", ".param"
    tolerance: ClassVar[float] = 1e-2  # of 16-bit weights
    keeps_quantisation: ClassVar[bool] = False
    any_batch: ClassVar[bool] = False

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Trace for a batch of one, and let pnnx rewrite the trace."""
        import pnnx

        binary = path.with_suffix(".bin")
        with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own tracing
            source = Path(folder) / "model.pt"
            plain, one = plain_model(model, activations=False), tuple(x[:1] for x in inputs)
            try:
                traced: Any = torch.jit.trace(plain, one, check_trace=False)  # type: ignore[no-untyped-call]
            except Exception as error:  # the tracer raises whatever a network's own code does
                raise self.refusal(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
            traced.save(str(source))
            shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in one)
            half = int(weight_bits == 16)
            words = [f"inputshape={shapes}", f"ncnnparam={path}", f"ncnnbin={binary}", f"fp16={half}"]
            done = subprocess.run(
                [pnnx.EXEC_PATH, str(source), *words], capture_output=True, text=True, errors="replace", check=False
            )
        if done.returncode or not path.is_file() or not binary.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise self.refusal(said[-1] if said else f"pnnx ended with exit status {done.returncode}")
        return Written((path, binary))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """One sample after the other, in a process of its own for each call: ncnn refuses by crashing alone."""
        return lambda *inputs: self._answer(files, inputs)

    def _answer(self, files: tuple[Path, ...], inputs: tuple[Tensor, ...]) -> Tensor:
        with TemporaryDirectory() as folder:
            given, answer = Path(folder) / "given.npz", Path(folder) / "answer.npy"
            held: dict[str, Any] = {str(place): tensor.numpy() for place, tensor in enumerate(inputs)}
            np.savez(given, **held)
            try:
                in_own_process(_RUN, *map(str, (*files, given, answer)))
            except ChildProcessError as error:
                raise self.refusal(f"ncnn does not run what pnnx wrote: {error}") from error
            return torch.from_numpy(np.load(answer))
