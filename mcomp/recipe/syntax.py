"""What the YAML scanner and parser complain about, in words that help."""

from __future__ import annotations

from typing import Any

import yaml

from mcomp.recipe.tree import Mark, Source

Explained = tuple[str, Mark | None, str]

_PLAIN = {
    "mapping values are not allowed here": (
        "a second `:` where one value was expected",
        "put text that holds `: ` in quotes, or check the indentation; a stage with keywords below it is no bare "
        "string: write `- evaluate: {}`",
    ),
    "could not find expected ':'": (
        "a key without `:`",
        "write `key: value`, and keep neighbouring keys in one column",
    ),
    "expected the node content, but found": ("a value was expected here", ""),
    "expected <block end>, but found '<block sequence start>'": (
        "this item is indented differently from its neighbours",
        "start every `- ` of one list in the same column",
    ),
    "expected <block end>, but found": (
        "this line does not fit its neighbours",
        "start keys of one mapping, and the `- ` of one list, in the same column",
    ),
    "expected alphabetic or numeric character, but found": (
        "`&` and `*` start an anchor or alias, and no name follows",
        "put the text in quotes",
    ),
    "sequence entries are not allowed here": ("a list cannot start here", "put the `- ` on a line of its own"),
    "found unknown escape character": (
        "an unknown escape in double quotes",
        "double the backslash, or use single quotes",
    ),
    "found unexpected document separator": ("a quote that is never closed", ""),
    "found duplicate anchor": ("this anchor exists already", ""),
}


def explain_reader(error: Any, source: Source) -> Explained:
    """A character that no YAML text may hold."""
    code = error.character if isinstance(error.character, int) else ord(error.character)
    message = f"the character U+{code:04X} cannot stand in a recipe"
    return message, source.mark_at(error.position), "write it as an escape in double quotes, or remove it"


def explain_syntax(error: yaml.MarkedYAMLError, source: Source) -> Explained:
    """A fault of the grammar: where, what, and the usual cause."""
    problem, context = error.problem or "not valid YAML", error.context or ""
    place: Any = error.problem_mark or error.context_mark
    opened: Any = error.context_mark
    if opened is not None and "quoted scalar" in context:
        if "end of stream" in problem:
            return "a quote that is never closed", _mark(source, opened), ""
        place = opened
    mark = _mark(source, place)
    if "that cannot start any token" in problem:
        return _bad_start(source, mark)
    if opened is not None and ("flow mapping" in context or "flow sequence" in context):
        return _in_brackets(source, mark, opened, "flow mapping" in context)
    for start, (message, hint) in _PLAIN.items():
        if problem.startswith(start):
            return message, mark, hint
    return f"not valid YAML: {problem}", mark, ""


def _bad_start(source: Source, mark: Mark) -> Explained:
    char = source.line(mark.line)[mark.column - 1 : mark.column]
    if char == "\t":
        return "a tab, where YAML takes only spaces", mark, "indent with spaces"
    return f"a value cannot start with `{char}`", mark, "put it in quotes"


def _in_brackets(source: Source, mark: Mark, opened: Any, mapping: bool) -> Explained:
    before = source.line(mark.line)[: mark.column - 1]
    if before.endswith("$"):
        return (
            "`${…}` inside brackets needs quotes",
            Mark(source, mark.line, mark.column - 1, 2),
            'write `"${name}"`',
        )
    bracket, close = ("{", "}") if mapping else ("[", "]")
    there = f"line {opened.line + 1}, column {opened.column + 1}"
    at_end = mark.line > len(source.lines) or not "".join(source.lines[mark.line - 1 :])[mark.column - 1 :].strip()
    if at_end:
        return f"`{bracket}` is never closed", _mark(source, opened), f"add `{close}`"
    return f"expected `,` or `{close}` here, inside the `{bracket}` of {there}", mark, ""


def _mark(source: Source, place: Any) -> Mark:
    """A one-character mark, moved back onto the text where the parser points past its end."""
    line, column = place.line + 1, place.column + 1
    while line > 1 and line >= len(source.lines) and not source.line(line):
        line -= 1
        column = len(source.line(line)) + 1
    return Mark(source, line, column)
