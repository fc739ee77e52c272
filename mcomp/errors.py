"""Every error mcomp raises on purpose, and the diagnostics that tell a recipe's faults.

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

A message says what happened and where, with numbers; ``why`` gives the cause, ``hint`` what to do. ``str(error)`` is
the text that the command line prints, so that a Python session and a notebook say the same.
Codes: MC00x mcomp itself and interruptions, MC1xx recipe, MC2xx usage and preflight, MC3xx store and artifacts,
MC40x stages and training, MC41x and MC45x pruning, MC42x and MC46x quantisation and folding, MC43x, MC44x and MC47x
deployment, MC48x search, MC5xx gates and conditions, MC6xx what is not installed or not there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

_WIDEST = 160
_LONGEST_CARET = 80


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

    def __str__(self) -> str:
        gutter = " " * len(str(self.line or ""))
        lines = [f"{self.severity}[{self.code}]: {visible(self.message)}"]
        if self.file is not None:
            place = f":{self.line}:{self.column}" if self.line is not None else ""
            lines.append(f"{gutter}--> {visible(self.file)}{place}")
        if self.file is not None and self.line is not None and self.column is not None:
            text, caret = _snippet(self.source_line, self.column, self.length)
            label = f" {visible(self.label)}" if self.label else ""
            lines += [f"{gutter} |", f"{self.line} | {text}".rstrip(), f"{gutter} | {caret}{label}"]
        elif self.label:
            lines.append(f"{gutter} = {visible(self.label)}")
        if self.hint:
            lines.append(f"{gutter} = help: {visible(self.hint)}")
        return "\n".join(lines)


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

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: these errors are about the reader's input, not about our code."""
        return [visible(line) for line in str(self).splitlines()]


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

    def __str__(self) -> str:
        return render(self.diagnostics)


class PreflightError(McompError):
    """Nothing was run, because it could not have succeeded."""

    exit_code = 4
    default_code = "MC250"

    def __str__(self) -> str:
        return f"{super().__str__()}\nnothing was run"


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


def render(diagnostics: Sequence[Diagnostic]) -> str:
    """The text a person reads: each fault with its line, caret and hint, then the count."""
    blocks = "\n\n".join(map(str, diagnostics))
    errors = sum(one.severity == "error" for one in diagnostics)
    warnings = len(diagnostics) - errors
    counts = [plural(errors, "error")] * bool(errors) + [plural(warnings, "warning")] * bool(warnings)
    if not counts:
        return ""
    return f"{blocks}\n{', '.join(counts)}{'; nothing was run' if errors else ''}"


def visible(text: str) -> str:
    """``text`` with control, ANSI and direction-changing characters spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def plural(number: int, word: str) -> str:
    """``1 stage``, ``2 stages``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _snippet(line: str, column: int, length: int) -> tuple[str, str]:
    """The line, cut around the fault and made printable, and the carets below it."""
    start = 0 if column + min(length, 40) <= _WIDEST else max(0, column - _WIDEST // 2)
    cut = line[start : start + _WIDEST]
    first = column - 1 - start
    length = max(1, min(length, len(cut) - first, _LONGEST_CARET))
    before, marked = cut[:first], cut[first : first + length]
    text = "".join(map(_one_cell, cut))
    pad = " " * (_cells(before) + first - len(before))
    if start:
        text, pad = f"…{text}", f" {pad}"
    if start + _WIDEST < len(line):
        text += "…"
    return text, pad + "^" * max(1, _cells(marked))


def _one_cell(char: str) -> str:
    if char == "\t":
        return "→"
    return char if char.isprintable() else "�"


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)
