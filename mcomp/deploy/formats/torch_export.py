"""``.pt2``: the program of ``torch.export``, for AOTInductor, ExecuTorch and whatever loads such programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mcomp.deploy.formats.base import Format, Written, first_output
from mcomp.deploy.formats.plain_model import plain_model


class TorchExport(Format):
    """An ``ExportedProgram`` of the simulation, for batches of any size where the network has none of its own."""

    name, suffix = "pt2", ".pt2"
    tolerance: ClassVar[float] = 1e-5

    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Export, with a batch axis that is free unless the network fixes it, and save."""
        plain = plain_model(model)
        free = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of torch's own tracing
                program = torch.export.export(plain, inputs, dynamic_shapes=free)
                torch.export.save(program, path)
        except Exception as error:  # the exporter raises whatever a network's own code does
            raise self.refusal(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        return Written((path,))

    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """Load the program anew."""
        program = torch.export.load(files[0]).module()

        def call(*inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return first_output(program(*inputs))

        return call
