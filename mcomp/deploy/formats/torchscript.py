"""TorchScript: for LibTorch in C++ and older mobile runtimes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written, first_output
from mcomp.deploy.formats.plain_model import plain_model


class TorchScript(Format):
    """A frozen trace of the simulation; branches of the network's Python are those that the example took."""

    name, suffix = "torchscript", ".pt"
    tolerance: ClassVar[float] = 1e-5

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Trace, freeze, save."""
        plain = plain_model(model)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of torch's own tracing
                traced: Any = torch.jit.trace(plain, inputs, check_trace=False)  # type: ignore[no-untyped-call]
                torch.jit.freeze(traced).save(str(path))
        except Exception as error:  # the tracer raises whatever a network's own code does
            raise self.refusal(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        return Written((path,))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """Load the file anew."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is of an older kind
            loaded: Any = torch.jit.load(str(files[0]))  # type: ignore[no-untyped-call]

        def call(*inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return first_output(loaded(*inputs))

        return call
