"""A run and a plan as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcomp.engine.summary import COLUMNS, remarks, rows
from mcomp.engine.units import count_text
from mcomp.recipe.diagnostics import visible

if TYPE_CHECKING:
    from rich.console import Console


def print_result(result: dict[str, Any]) -> None:
    """The last screen of ``mcomp apply``."""
    console = _console()
    _print_table(console, result["name"], COLUMNS, rows(result))
    for line in remarks(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_plan(plan: dict[str, Any]) -> None:
    """The screen of ``mcomp plan``."""
    body = [
        (
            stage["id"],
            stage["status"],
            count_text(stage["params"]),
            count_text(stage["macs"]),
            "–" if stage["seconds"] is None else f"{stage['seconds']:.1f}",
            stage["reason"],
        )
        for stage in plan["stages"]
    ]
    _print_table(_console(), plan["name"], ("stage", "status", "params", "MACs", "seconds", "why"), body)


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
        right = index and column not in ("status", "why", "what it does", "summary")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "why")
    for row in body:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)
