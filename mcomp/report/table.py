"""A run and a plan as tables on the terminal, and a run as an HTML table for notebooks."""

from __future__ import annotations

from html import escape as html_escape
from typing import TYPE_CHECKING, Any

from mcomp.report.units import bytes_text, count_text, latency_text, top1_text

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("stage", "top-1 %", "params", "MACs", "bytes", "latency", "status")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per stage, in the order of :data:`COLUMNS`."""
    found = []
    for stage in result["stages"]:
        metrics = stage["metrics"]
        status = stage["status"]
        if status in ("run", "resumed"):
            status = f"{status} {stage['seconds']:.1f} s"
        if any(not gate["passed"] for gate in stage["gates"]):
            status = "gate failed"
        found.append(
            (
                stage["id"],
                top1_text(metrics.get("top1")),
                count_text(metrics.get("params")),
                count_text(metrics.get("macs")),
                bytes_text(metrics.get("bytes")),
                latency_text(metrics),
                status,
            )
        )
    return found


def remarks(result: dict[str, Any]) -> list[str]:
    """Gates, notes and deployed files, one line each."""
    lines = []
    for stage in result["stages"]:
        for gate in stage["gates"]:
            lines.append(f"{stage['id']}: gate {'held' if gate['passed'] else 'FAILED'}: {gate_text(gate)}")
        lines += [f"{stage['id']}: {note}" for note in stage["notes"]]
        lines += [f"{stage['id']}: {name}: {path}" for name, path in stage["files"].items()]
    return lines


def gate_text(gate: dict[str, Any]) -> str:
    """``top1 max_drop vs finetune: 0.31 points (limit 1)``."""
    against = f" vs {gate['vs']}" if gate["vs"] else ""
    unit = f" {gate['unit']}" if gate["unit"] else ""
    return f"{gate['metric']} {gate['rule']}{against}: {gate['value']:.6g}{unit} (limit {gate['limit']:g})"


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


def print_table(title: str, columns: tuple[str, ...], body: list[tuple[str, ...]]) -> None:
    """Any small table."""
    _print_table(_console(), title, columns, body)


def result_html(result: dict[str, Any]) -> str:
    """A ``<table>`` of :func:`rows`; every text escaped."""
    head = "".join(f"<th>{html_escape(column)}</th>" for column in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html_escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(result)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _console() -> Console:
    import shutil
    import sys

    from rich.console import Console

    # into a file or a pipe there is no terminal width to respect, and a wrapped cell cannot be searched
    width = None if sys.stdout.isatty() else max(160, shutil.get_terminal_size().columns)
    return Console(width=width)


def _print_table(console: Console, title: str, columns: tuple[str, ...], body: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index and column not in ("status", "why", "what it does", "summary")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "why")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
