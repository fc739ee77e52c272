"""A run and a sweep as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcomp.engine.summary import COLUMNS, point_text, remarks, rows, sweep_columns, sweep_remarks, sweep_rows
from mcomp.errors import visible

if TYPE_CHECKING:
    from rich.console import Console


def print_result(result: dict[str, Any]) -> None:
    """The last screen of ``mcomp apply``."""
    console = _console()
    _print_table(console, title_of(result), COLUMNS, rows(result))
    for line in remarks(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_sweep(result: dict[str, Any]) -> None:
    """The last screen of ``mcomp apply`` for a recipe with a sweep: one row per run."""
    console = _console()
    _print_table(console, result["name"], sweep_columns(result), sweep_rows(result))
    for line in sweep_remarks(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


#: Columns that hold whole sentences, and those that hold words, not figures.
SENTENCES = frozenset({"why", "what it does", "summary", "type", "default", "how much"})
WORDS = SENTENCES | {"status", "sweep"}


def title_of(found: dict[str, Any]) -> str:
    """The name of a run, with what its sweep set."""
    point = point_text(found.get("sweep", {}))
    return visible(f"{found['name']}: {point}" if point else str(found["name"]))


def print_table(title: str, columns: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> None:
    """Any small table."""
    _print_table(_console(), title, columns, body)


def _console() -> Console:
    import shutil
    import sys

    from rich.console import Console

    # into a file or a pipe there is no terminal width to respect, and a wrapped cell cannot be searched
    width = None if sys.stdout.isatty() else max(160, shutil.get_terminal_size().columns)
    return Console(width=width)


def _print_table(console: Console, title: str, columns: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index and column not in WORDS
        # what a row is about is never cut; where there is no room for all, sentences wrap
        least = max((len(visible(row[0])) for row in body), default=0) if index == 0 else None
        table.add_column(column, justify="right" if right else "left", no_wrap=column not in SENTENCES, min_width=least)
    for row in body:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)
