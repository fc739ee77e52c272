"""A run and a sweep as tables on the terminal. Nothing in a table is ever cut: it wraps, or stands elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcomp.engine.summary import COLUMNS, point_text, remarks, rows, sweep_columns, sweep_remarks, sweep_rows
from mcomp.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

#: Columns that hold whole sentences, which may wrap, and those that hold words, not figures.
SENTENCES = frozenset({"why", "what it does", "summary", "type", "default", "how much", "found"})
WORDS = SENTENCES | {"status", "sweep", "option", "reason", "kind"}

_UNBOUNDED = 1_000_000  # into a file or a pipe: there is no width to respect, and a wrapped cell cannot be searched
#: Of tables that are read rather than searched, into a file or a pipe as well.
READABLE = 100
_LEAST = 12  # narrower than this, a sentence cannot be read
_LEAST_WHY = 28  # reasons are the longest
_LONGEST_WORD = 24


def print_result(result: dict[str, Any]) -> None:
    """The last screen of ``mcomp apply``."""
    print_table(title_of(result), COLUMNS, rows(result))
    _print_lines(remarks(result))


def print_sweep(result: dict[str, Any]) -> None:
    """The last screen of ``mcomp apply`` for a recipe with a sweep: one row per run."""
    print_table(result["name"], sweep_columns(result), sweep_rows(result))
    _print_lines(sweep_remarks(result))


def title_of(found: dict[str, Any]) -> str:
    """The name of a run, with what its sweep set."""
    point = point_text(found.get("sweep", {}))
    return f"{found['name']}: {point}" if point else str(found["name"])


def print_table(
    title: str, columns: tuple[str, ...], body: Sequence[tuple[str, ...]], *, widest: int = _UNBOUNDED
) -> None:
    """Any small table.

    On a terminal that is too narrow for it, it loses its frame, then its reasons (they follow as lines), and at last
    each row becomes a block of lines.

    Args:
        title: above it.
        columns: their names.
        body: rows of texts.
        widest: characters of a line where there is no terminal.
    """
    shown = [tuple(map(visible, row)) for row in body]
    console = _console(widest)
    _print_lines([visible(title)], style="italic")
    for framed in (True, False):
        if widths := _widths(columns, shown, console.width, framed):
            _draw(console, columns, shown, widths, framed)
            return
    if columns[-1] == "why" and (widths := _widths(columns[:-1], [row[:-1] for row in shown], console.width, False)):
        _draw(console, columns[:-1], [row[:-1] for row in shown], widths, False)
        _print_lines([f"{row[0]}: {row[-1]}" for row in shown])
        return
    for row in shown:
        _print_lines(
            [f"{columns[0]} {row[0]}", *(f"  {name}: {cell}" for name, cell in zip(columns[1:], row[1:], strict=True))]
        )


def _console(widest: int = _UNBOUNDED) -> Console:
    from rich.console import Console

    if not sys.stdout.isatty():
        return Console(width=widest)
    return Console(width=shutil.get_terminal_size().columns)


def _print_lines(lines: Sequence[str], style: str = "") -> None:
    console = _console()
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _widths(columns: tuple[str, ...], body: Sequence[tuple[str, ...]], room: int, framed: bool) -> list[int] | None:
    """Characters of each column, of which only sentences get fewer than they want; None where there is no room."""
    from rich.cells import cell_len

    wanted = [max(map(cell_len, (name, *(row[i] for row in body)))) for i, name in enumerate(columns)]
    widths = []
    for index, name in enumerate(columns):
        if index and name in SENTENCES:
            words = [cell_len(word) for text in (name, *(row[index] for row in body)) for word in text.split()]
            least = _LEAST_WHY if name == "why" else _LEAST
            widths.append(min(wanted[index], max(least, min(_LONGEST_WORD, max(words, default=0)))))
        else:
            widths.append(wanted[index])
    left = room - sum(widths) - (3 * len(columns) + 1 if framed else 2 * (len(columns) - 1))
    if left < 0:
        return None
    while left and (short := [i for i in range(len(columns)) if widths[i] < wanted[i]]):
        neediest = max(short, key=lambda i: wanted[i] / widths[i])
        widths[neediest] += 1
        left -= 1
    return widths


def _draw(
    console: Console, columns: tuple[str, ...], body: Sequence[tuple[str, ...]], widths: Sequence[int], framed: bool
) -> None:
    from rich.box import HEAVY_HEAD
    from rich.table import Table
    from rich.text import Text

    padding = (0, 1) if framed else (0, 2, 0, 0)
    table = Table(box=HEAVY_HEAD if framed else None, padding=padding, pad_edge=framed, header_style="bold")
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        right = index and column not in WORDS
        table.add_column(Text(column), justify="right" if right else "left", width=width, overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    console.print(table)
