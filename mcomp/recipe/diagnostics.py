"""Collecting faults, and printing them for GitHub; :func:`mcomp.errors.render` prints them for people.

Codes of this room::

    MC101  the file cannot be read            MC110  --set
    MC102  not YAML, or YAML a recipe may     MC111  stage ids
           not use (tags, merge keys, …)      MC112  gates
    MC103  unknown option or key              MC113  stages in an order that cannot work
    MC104  wrong type or out of range         MC114  code that needs --trust
    MC105  something required is missing      MC115  a file named by the recipe fails or
    MC106  unknown or malformed stage                is missing
    MC107  unknown model or data set
    MC108  variables

    MC122  a base that cannot be read         MC128  the recipe was written for a newer mcomp
    MC123  recipes that extend one another    MC129  a sweep has no single lock
           without end, or are too large      MC130  a branch starts from a stage that is
    MC124  an edit of `stages` that names            not there
           none                               MC132  a condition asks about what is not there
    MC125  a sweep that cannot be laid out    MC133  `otherwise` cannot be followed
    MC126  a path of a sweep that leads       MC134  a drop of what is better when low
           nowhere
    MC127  a `--set` of what a sweep sets
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from mcomp.errors import Diagnostic, render, visible
from mcomp.recipe.tree import Mark

__all__ = ["Faults", "render", "render_github", "shown"]

_MOST = 100  # of errors, and of warnings: one broken indentation can make a thousand; nobody reads them
_SET = re.compile(r"--set #(\d{1,9})")  # as :func:`mcomp.recipe.sets.apply_sets` names its sources

_Key = tuple[str, str, str | None, int | None, int | None]


class Faults:
    """Every fault found so far. Nothing is raised before the whole recipe was looked at.

    Errors and warnings are kept apart: however many warnings there are, an error is never lost among them.
    """

    def __init__(self, files: Sequence[str] = ()) -> None:
        self._found: dict[str, dict[_Key, Diagnostic]] = {"error": {}, "warning": {}}
        self._files: dict[str, int] = {name: place for place, name in enumerate(files)}

    @property
    def full(self) -> bool:
        """True once more errors would not be read anyway."""
        return len(self._found["error"]) >= _MOST

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that were read, in the order in which their faults are told."""
        return tuple(self._files)

    def reads(self, name: str) -> None:
        """Say that a file is read now: the recipe itself first, then what it extends."""
        self._files.setdefault(name, len(self._files))

    def take(self, one: Diagnostic) -> None:
        """Record what another collection found."""
        found = self._found[one.severity]
        if len(found) < _MOST:
            found.setdefault((one.code, one.message, one.file, one.line, one.column), one)

    def error(self, code: str, message: str, mark: Mark | None, *, label: str = "", hint: str = "") -> None:
        """Record a fault at ``mark``."""
        self._add("error", code, message, mark, label, hint)

    def unreadable(self, message: str, file: str, hint: str = "") -> None:
        """Record that a file cannot be read: there is no place in it to point at."""
        one = Diagnostic("MC101", visible(message), file, hint=visible(hint), severity="error")
        self._found["error"].setdefault(("MC101", message, file, None, None), one)

    def warning(self, code: str, message: str, mark: Mark | None, *, label: str = "", hint: str = "") -> None:
        """Record something that does not stop the recipe."""
        self._add("warning", code, message, mark, label, hint)

    def _add(
        self, severity: Literal["error", "warning"], code: str, message: str, mark: Mark | None, label: str, hint: str
    ) -> None:
        found = self._found[severity]
        if len(found) >= _MOST:
            return
        place = (None, None, None) if mark is None else (mark.file, mark.line, mark.column)
        found.setdefault(
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
        """Errors in the order of the text: the recipe, what it extends, then those of ``--set``."""
        return self._sorted("error")

    @property
    def warnings(self) -> list[Diagnostic]:
        """Warnings in the same order."""
        return self._sorted("warning")

    def _sorted(self, severity: str) -> list[Diagnostic]:
        def place(one: Diagnostic) -> tuple[bool, int, int, int]:
            file = one.file or ""
            number = None if file in self._files else _SET.fullmatch(file)
            rank = self._files.get(file, len(self._files)) if number is None else int(number[1])
            return number is not None, rank, one.line or 0, one.column or 0

        return sorted(self._found[severity].values(), key=place)


def shown(text: str, most: int = 60) -> str:
    """``text`` cut to a length that fits in a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def render_github(diagnostics: Sequence[Diagnostic]) -> str:
    """One workflow command per fault, which GitHub shows beside the line of a pull request.

    ``endColumn`` is the column behind the last character, as in SARIF. A fault outside of every file (of a ``--set``,
    or a file that cannot be read) carries its place in its text.
    """
    return "\n".join(map(_annotation, diagnostics))


def _annotation(one: Diagnostic) -> str:
    properties: dict[str, str | int] = {}
    message = visible(one.message)
    if one.file is not None and not _SET.fullmatch(one.file):
        properties["file"] = one.file
        if one.line is not None and one.column is not None:
            properties |= {"line": one.line, "col": one.column, "endColumn": one.column + one.length}
    elif one.file is not None:
        message = f"{one.file}:{one.line}:{one.column}: {message}"
    properties["title"] = one.code
    text = "\n".join(part for part in (message, visible(one.label), visible(one.hint)) if part)
    given = ",".join(f"{name}={_escaped(str(value), _PROPERTY)}" for name, value in properties.items())
    return f"::{one.severity} {given}::{_escaped(text, _DATA)}"


# https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def _escaped(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(char, char) for char in text)
