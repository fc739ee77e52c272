"""ncnn, through pnnx: float weights in 32 or 16 bits.

Its INT8 tables come from programs that its Python package does not hold, so activations stay float here.
"""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written
from mcomp.deploy.formats.plain_model import plain_model


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
            traced: Any = torch.jit.trace(plain, one, check_trace=False)  # type: ignore[no-untyped-call]
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

    def run(self, written: Written, inputs: tuple[Tensor, ...]) -> Tensor:
        """One sample after the other."""
        import ncnn

        network: Any = ncnn.Net()
        network.opt.num_threads = 1
        network.opt.use_fp16_arithmetic = network.opt.use_bf16_storage = False
        failed = network.load_param(str(written.files[0])) or network.load_model(str(written.files[1]))
        if failed:
            raise self.refusal("ncnn has an operator too few: it cannot load what pnnx wrote")
        return torch.cat([self._one(network, tuple(x[i] for x in inputs)) for i in range(len(inputs[0]))])

    def _one(self, network: Any, sample: tuple[Tensor, ...]) -> Tensor:
        import ncnn

        extractor = network.create_extractor()
        for name, x in zip(network.input_names(), sample, strict=True):
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(x.numpy())).clone())  # a Mat borrows its memory
        failed, output = extractor.extract(network.output_names()[0])
        if failed:
            raise self.refusal(f"ncnn stopped with {failed}")
        return torch.from_numpy(np.array(output).copy())[None]
