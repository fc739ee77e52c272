"""Collecting faults and printing them.

Codes of this room::

    MC101  the file cannot be read            MC108  variables
    MC102  not YAML, or YAML a recipe may     MC109  not available in this version
           not use (tags, merge keys, …)      MC110  --set
    MC103  unknown option or key              MC111  stage ids
    MC104  wrong type or out of range         MC112  gates
    MC105  something required is missing      MC113  stages in an order that cannot work
    MC106  unknown or malformed stage         MC114  code that needs --trust
    MC107  unknown model or data set          MC115  a file named by the recipe fails or is missing
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

from mcomp.errors import Diagnostic
from mcomp.recipe.tree import Mark

_MOST = 100  # one broken indentation can make a thousand faults; nobody reads them
_WIDEST = 160
_LONGEST_CARET = 80


class Faults:
    """Every fault found so far. Nothing is raised before the whole recipe was looked at."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str | None, int | None, int | None], Diagnostic] = {}

    @property
    def full(self) -> bool:
        """True once more would not be read anyway."""
        return len(self._found) >= _MOST

    def error(self, code: str, message: str, mark: Mark | None, *, label: str = "", hint: str = "") -> None:
        """Record a fault at ``mark``."""
        self._add("error", code, message, mark, label, hint)

    def warning(self, code: str, message: str, mark: Mark | None, *, label: str = "", hint: str = "") -> None:
        """Record something that does not stop the recipe."""
        self._add("warning", code, message, mark, label, hint)

    def _add(
        self, severity: Literal["error", "warning"], code: str, message: str, mark: Mark | None, label: str, hint: str
    ) -> None:
        if self.full:
            return
        place = (None, None, None) if mark is None else (mark.file, mark.line, mark.column)
        self._found.setdefault(
            (code, message, *place),
            Diagnostic(
                code=code,
                message=visible(message),
                file=place[0],
                line=place[1],
                column=place[2],
                length=1 if mark is None else max(1, mark.length),
                label=visible(label),
                hint=visible(hint),
                source_line="" if mark is None else mark.source.line(mark.line),
                severity=severity,
            ),
        )

    @property
    def errors(self) -> list[Diagnostic]:
        """Errors in the order of the text, those of ``--set`` last."""
        return self._sorted("error")

    @property
    def warnings(self) -> list[Diagnostic]:
        """Warnings in the order of the text, those of ``--set`` last."""
        return self._sorted("warning")

    def _sorted(self, severity: str) -> list[Diagnostic]:
        def place(one: Diagnostic) -> tuple[bool, str, int, int]:
            file = one.file or ""
            return file.startswith("--set #"), file, one.line or 0, one.column or 0

        return sorted((one for one in self._found.values() if one.severity == severity), key=place)


def visible(text: str) -> str:
    """``text`` with control, ANSI and direction-changing characters spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str, most: int = 60) -> str:
    """``text`` cut to a length that fits in a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def render(diagnostics: Sequence[Diagnostic]) -> str:
    """The text a person reads: each fault with its line, caret and hint, then the count."""
    blocks = "\n\n".join(_block(one) for one in diagnostics)
    errors = sum(one.severity == "error" for one in diagnostics)
    warnings = len(diagnostics) - errors
    counts = [_plural(errors, "error")] * bool(errors) + [_plural(warnings, "warning")] * bool(warnings)
    if not counts:
        return ""
    return f"{blocks}\n{', '.join(counts)}{'; nothing was run' if errors else ''}"


def _block(one: Diagnostic) -> str:
    head = f"{one.severity}[{one.code}]: {visible(one.message)}"
    gutter = " " * len(str(one.line or ""))
    lines = [head]
    if one.file is not None:
        place = f":{one.line}:{one.column}" if one.line is not None else ""
        lines.append(f"{gutter}--> {visible(one.file)}{place}")
    if one.file is not None and one.line is not None and one.column is not None:
        text, caret = _snippet(one.source_line, one.column, one.length)
        label = f" {visible(one.label)}" if one.label else ""
        lines += [f"{gutter} |", f"{one.line} | {text}".rstrip(), f"{gutter} | {caret}{label}"]
    elif one.label:
        lines.append(f"{gutter} = {visible(one.label)}")
    if one.hint:
        lines.append(f"{gutter} = help: {visible(one.hint)}")
    return "\n".join(lines)


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


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
