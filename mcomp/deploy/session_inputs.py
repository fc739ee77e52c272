"""What a file in a runtime is asked to answer, held against what the file declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcomp.errors import StageError, UsageError, plural


@dataclass(frozen=True)
class DeclaredInput:
    """One input of a file.

    Attributes:
        name: in the file.
        dtype: of its elements; None where torch has no such type.
        shape: a size per axis, None where the axis is free; None for a shape that the file leaves open.
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape or ())
        return f"`{self.name}` [{sizes}]" if self.shape else f"`{self.name}`"

    def fault(self, given: Any) -> tuple[str, str]:
        """What is wrong with ``given``, and what to do; both empty where it fits."""
        if not isinstance(given, Tensor):
            hint = "pass `torch.from_numpy(array)`" if type(given).__name__ == "ndarray" else "pass a `torch.Tensor`"
            return f"is a `{type(given).__name__}`, not a tensor", hint
        if self.dtype is not None and given.dtype != self.dtype:
            wanted = _short(self.dtype)
            return f"has the type {_short(given.dtype)}, and the file takes {wanted}", f"pass `x.to(torch.{wanted})`"
        fits = self.shape is None or (
            len(given.shape) == len(self.shape)
            and all(size in (None, found) for size, found in zip(self.shape, given.shape, strict=True))
        )
        if not fits:
            return f"has the shape {list(given.shape)}", f"pass one batch that fits {self}"
        return "", ""


def check_inputs(file: str, declared: Sequence[DeclaredInput], given: Sequence[Any]) -> None:
    """Refuse inputs that ``file`` does not take.

    Raises:
        UsageError: MC429, another number of them, no tensors, or tensors of another type or shape.
    """
    if len(given) != len(declared):
        listed = ", ".join(f"`{each.name}`" for each in declared)
        came = "1 was" if len(given) == 1 else f"{len(given)} were"
        raise UsageError(
            f"`{file}` takes {plural(len(declared), 'input')}, and {came} given",
            code="MC429",
            hint=f"pass {listed}{', in this order' if len(declared) > 1 else ''}" if declared else "pass none",
        )
    for wanted, tensor in zip(declared, given, strict=True):
        fault, hint = wanted.fault(tensor)
        if fault:
            raise UsageError(f"input `{wanted.name}` of `{file}` {fault}", code="MC429", hint=hint)


def check_file(path: Path) -> None:
    """Refuse a path where no file lies, before a runtime says so in its own words.

    Raises:
        StageError: MC434.
    """
    if not path.is_file():
        fault = f"`{path}` is a folder" if path.is_dir() else f"there is no file `{path}`"
        raise StageError(fault, code="MC434", hint="write one with `mcomp.deploy.to_onnx`, or mend the path")


def checked_threads(given: Any) -> int:
    """``given`` as a number of threads.

    Raises:
        UsageError: MC427, it is none.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return given
    raise UsageError(f"`threads` is {given!r}", code="MC427", hint="give a whole number, at least 1")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
