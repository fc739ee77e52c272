"""What a format is: how a model is written in it, and how the file is run again."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcomp.deploy.formats.names import PACKAGES, missing_packages
from mcomp.deploy.runtime_package import install_command
from mcomp.errors import BackendMissingError, StageError


@dataclass(frozen=True)
class Written:
    """Files of one export, the one to load first."""

    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Of all files together, on disk."""
        return sum(path.stat().st_size for path in self.files)


class Format(ABC):
    """One file format. ``write`` is given models in eval mode on the CPU.

    Attributes:
        name: as a recipe and the command line have it.
        suffix: of the file that is loaded.
        tolerance: the largest relative error of a faithful file, of outputs in float32.
        keeps_quantisation: whether activations are quantised in the file as they were in training.
        any_batch: whether the file takes batches of any size.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    tolerance: ClassVar[float] = 1e-3
    keeps_quantisation: ClassVar[bool] = True
    any_batch: ClassVar[bool] = True

    @abstractmethod
    def write(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, weight_bits: int | None) -> Written:
        """Write ``model`` to ``path``, whose folder exists.

        Raises:
            StageError: MC447, the format cannot express it.
        """

    @abstractmethod
    def open(self, files: tuple[Path, ...]) -> Callable[..., Tensor]:
        """The files as a call: tensors of a batch in, the first output out."""

    def require(self) -> None:
        """Refuse where a package is missing, or cannot be imported.

        Raises:
            BackendMissingError: MC618, or MC610 for ONNX Runtime.
        """
        missing = missing_packages(self.name)
        if missing:
            raise BackendMissingError(
                f"the format `{self.name}` needs {' and '.join(missing)}",
                code="MC618",
                hint=install_command(missing),
            )

    def versions(self) -> dict[str, str]:
        """What wrote and ran the file."""
        return {name: metadata.version(name) for name in ("torch", *PACKAGES.get(self.name, {}).values())}

    def refusal(self, why: str) -> StageError:
        """The error of a model that the format cannot express."""
        return StageError(
            f"the network cannot be written as `{self.name}`",
            code="MC447",
            why=why,
            hint="export it in another format, e.g. `onnx`",
        )


def first_output(answer: Any) -> Tensor:
    """The first tensor of what a network answers."""
    found: Tensor = tree_leaves(answer)[0]
    return found


def in_own_process(program: str, *arguments: str, timeout: float = 600) -> str:
    """Run Python code whose library may abort the process, and hand back what it printed.

    Raises:
        ChildProcessError: it failed; the message is the last line that it printed.
    """
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
    printed = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        last = printed[-1].strip() if printed else "it said nothing"
        raise ChildProcessError(f"exit status {done.returncode}: {last}")
    return done.stdout
