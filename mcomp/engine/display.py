"""How a result, a plan and a run under way are shown outside of the command line.

Results show themselves: a table in a notebook (``_repr_html_``), the same as text for ``print``, one line at a prompt.
What a run does is shown by whoever can write to a screen, which the engine cannot: it opens the display that was
installed. ``from mcomp import Engine`` installs that of ``mcomp.report.progress``.

Codes of this file::

    MC616  progress was asked for, and no display is installed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from mcomp.engine.events import Listener
from mcomp.engine.summary import (
    COLUMNS,
    figures_text,
    point_text,
    remarks,
    rows,
    sweep_columns,
    sweep_remarks,
    sweep_rows,
)
from mcomp.engine.units import bytes_text, cost_text, count_text, seconds_text
from mcomp.errors import UsageError, plural, visible

if TYPE_CHECKING:
    from rich.text import Text

#: Given what :class:`Engine` was told of ``progress``, the listeners that show one run or one sweep.
Display = Callable[[bool | None], AbstractContextManager[Sequence[Listener]]]

#: Columns of words; figures stand to the right.
WORDS = frozenset({"stage", "run", "status", "why", "what it does", "summary"})

_installed: Display | None = None


def install(display: Display) -> None:
    """Show every run from now on with ``display``."""
    global _installed
    _installed = display


@contextmanager
def listeners(progress: bool | None) -> Iterator[Sequence[Listener]]:
    """What shows a run while it goes on.

    Args:
        progress: True to show it, False not to, None to leave that to the display.

    Raises:
        UsageError: MC616, progress was asked for, and nothing can show it.
    """
    if _installed is None and progress:
        raise UsageError("no display is installed", code="MC616", hint="`from mcomp import Engine` installs one")
    if _installed is None or progress is False:
        yield ()
        return
    with _installed(progress) as shown:
        yield shown


class Screen(NamedTuple):
    """What there is to see of something: one line that says it all, then a table, then lines of text."""

    headline: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    remarks: Sequence[str] = ()

    def text(self) -> str:
        """Lines of text, columns aligned."""
        cells = [self.columns, *(tuple(map(visible, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [visible(self.headline)]
        for row in cells:
            fitted = (
                cell.ljust(width) if name in WORDS else cell.rjust(width)
                for name, cell, width in zip(self.columns, row, widths, strict=True)
            )
            lines.append("  ".join(fitted).rstrip())
        return "\n".join([*lines, *map(visible, self.remarks)])

    def html(self) -> str:
        """A ``<table>`` and a list; every text escaped."""
        head = "".join(f"<th>{escaped(column)}</th>" for column in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        said = "".join(f"<li>{escaped(line)}</li>" for line in self.remarks)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{escaped(self.headline)}</p>{table}" + (f"<ul>{said}</ul>" if said else "")


class Shown:
    """Base of what shows itself as a :class:`Screen`: in notebooks, for ``print``, for rich, at a prompt."""

    def _screen(self) -> Screen:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {visible(self._screen().headline)}>"

    def __str__(self) -> str:
        return self._screen().text()

    def _repr_html_(self) -> str:
        return self._screen().html()

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(str(self), no_wrap=True)


def run_screen(result: dict[str, Any]) -> Screen:
    """The screen of one run, from ``RunResult.as_dict()``."""
    return Screen(_run_headline(result), COLUMNS, rows(result), remarks(result))


def plan_screen(plan: dict[str, Any]) -> Screen:
    """The screen of a plan, from ``Plan.as_dict()``; a cost that is a range shows both its ends."""
    stages = plan["stages"]
    body = [
        (
            stage["id"],
            stage["status"],
            cost_text(stage["params"], count_text),
            cost_text(stage["macs"], count_text),
            cost_text(stage["seconds"], seconds_text),
            cost_text(stage["memory_bytes"], bytes_text),
            stage["reason"],
        )
        for stage in stages
    ]
    statuses = [stage["status"] for stage in stages]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    headline = f"{_title(plan)}: {plural(len(stages), 'stage')} ({counts})"
    return Screen(headline, ("stage", "status", "params", "MACs", "seconds", "memory", "why"), body)


def sweep_screen(sweep: dict[str, Any]) -> Screen:
    """The screen of a sweep, from ``SweepResult.as_dict()``: one row per run, the figures of its last stage."""
    well = sum(run["status"] == "ok" for run in sweep["runs"])
    headline = f"{sweep['name']}: {well} of {plural(sweep['points'], 'run')} ok"
    return Screen(headline, sweep_columns(sweep), sweep_rows(sweep), sweep_remarks(sweep))


def escaped(text: str) -> str:
    """``text`` as HTML shows it, control characters spelled out."""
    return escape(visible(text))


def _run_headline(result: dict[str, Any]) -> str:
    stages = result["stages"]
    cached = sum(stage["status"] == "hit" for stage in stages)
    parts = [result["status"], plural(len(stages), "stage") + (f" ({cached} cached)" if cached else "")]
    if figures := figures_text(_last_metrics(result)):
        parts.append(figures)
    return f"{_title(result)}: {', '.join(parts)}, {result['seconds']:.1f} s"


def _title(found: dict[str, Any]) -> str:
    point = point_text(found.get("sweep", {}))
    return f"{found['name']} ({point})" if point else str(found["name"])


def _last_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Of the last stage that has any."""
    return next((stage["metrics"] for stage in reversed(result["stages"]) if stage["metrics"]), {})
