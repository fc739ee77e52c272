"""Every error mcomp raises on purpose.

::

    McompError
    ├── UsageError          exit 2   the command line or a Python call was wrong
    ├── RecipeError         exit 3   the recipe is invalid; carries every diagnostic
    ├── PreflightError      exit 4   nothing was run, because it could not have succeeded
    ├── StageError          exit 5   a stage failed while running
    ├── BackendMissingError exit 7   a runtime (TensorRT, a GPU, an extra) is absent
    ├── StoreError          exit 8   the store is locked, full, read-only or corrupt
    └── InterruptedRun      exit 130/143   stopped by a signal; the same command goes on

A gate that fails raises nothing: it is the run's status, and its exit code 6.

A message says what happened and where, with numbers; ``why`` gives the cause, ``hint`` what to do.
Codes: MC1xx recipe, MC2xx usage and preflight, MC3xx store and artifacts, MC40x training,
MC41x pruning, MC42x quantisation and folding, MC43x and MC44x deployment, MC5xx gates, MC6xx backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Diagnostic:
    """One fault of a recipe, pointing at the characters that hold it.

    Lines and columns count from 1; ``length`` is in characters. ``label`` stands beside the caret.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    length: int = 1
    label: str = ""
    hint: str = ""
    source_line: str = ""
    severity: Literal["error", "warning"] = "error"

    def as_dict(self) -> dict[str, str | int | None]:
        """The fields that ``validate --json`` prints."""
        return {
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "hint": self.label if not self.hint else self.hint if not self.label else f"{self.label}; {self.hint}",
        }


class McompError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what happened and where, one sentence, with numbers.
        code: stable ``MC…`` code.
        why: the cause, if the message does not already say it.
        hint: what the reader can do about it.
    """

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "MC001"

    def __init__(self, message: str, *, code: str | None = None, why: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.why:
            lines.append(f"  = why: {self.why}")
        if self.hint:
            lines.append(f"  = help: {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | int | None]:
        """The same fields as a recipe diagnostic, without a position."""
        hint = "; ".join(part for part in (self.why, self.hint) if part)
        return {"code": self.code, "message": self.message, "file": None, "line": None, "column": None, "hint": hint}


class UsageError(McompError):
    """The command line or a Python call was wrong."""

    exit_code = 2
    default_code = "MC200"


class RecipeError(McompError):
    """The recipe is invalid. ``diagnostics`` holds every fault, errors before warnings."""

    exit_code = 3
    default_code = "MC100"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        first = self.diagnostics[0]
        super().__init__(first.message, code=first.code, hint=first.hint)


class PreflightError(McompError):
    """Nothing was run, because it could not have succeeded."""

    exit_code = 4
    default_code = "MC250"


class StageError(McompError):
    """A stage failed while running."""

    exit_code = 5
    default_code = "MC400"


class BackendMissingError(McompError):
    """A runtime is absent: TensorRT, a GPU, or a package of an extra."""

    exit_code = 7
    default_code = "MC600"


class StoreError(McompError):
    """The store is locked, full, read-only or corrupt."""

    exit_code = 8
    default_code = "MC300"


class InterruptedRun(McompError):
    """A signal stopped the run at a safe point; the same command goes on from there."""

    default_code = "MC002"

    def __init__(self, signal_number: int = 2) -> None:
        super().__init__("interrupted", hint="run the same command again to go on")
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number
