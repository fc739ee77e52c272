"""A run under way in a notebook: one table that fills in, redrawn in place."""

from __future__ import annotations

import sys
from typing import Any

from mcomp.engine.display import escaped
from mcomp.engine.events import Event
from mcomp.report.progress import epoch_text, outcome_text, step_text


def in_notebook() -> bool:
    """True inside an IPython kernel: Jupyter, VS Code, Colab. A terminal's IPython is a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookProgress:
    """Draws each run as a table of its stages and what each is doing; needs no widgets."""

    def __init__(self) -> None:
        self._title = ""
        self._lines: dict[str, str] = {}
        self._last = ""
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        """Take one event, and draw what it changed."""
        stage = event.get("stage")
        match event["event"]:
            case "run_started":
                self._title = f"run {event['run']}"
                self._lines = {planned["id"]: planned["status"] for planned in event["plan"]}
                self._last, self._handle = "", None
            case "stage_started":
                self._lines[str(stage)] = "…"
            case "step":
                self._lines[str(stage)] = step_text(event)
            case "epoch":
                self._lines[str(stage)] = epoch_text(event)
            case "stage_finished":
                self._lines[str(stage)] = outcome_text(event["outcome"])
            case "status" | "log" | "notice":
                self._last = f"{f'{stage}: ' if stage else ''}{event.get('text', '')}"
            case "run_finished":
                for outcome in event["result"]["stages"]:
                    self._lines[outcome["id"]] = outcome_text(outcome)
                self._title += f": {event['result']['status']}, {event['result']['seconds']:.1f} s"
            case _:
                return
        self._draw()

    def html(self) -> str:
        """The table as it stands; every text escaped."""
        body = "".join(
            f"<tr><td>{escaped(name)}</td><td>{escaped(line)}</td></tr>" for name, line in self._lines.items()
        )
        last = f"<p><em>{escaped(self._last)}</em></p>" if self._last else ""
        return f"<p>{escaped(self._title)}</p><table><tbody>{body}</tbody></table>{last}"

    def _draw(self) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(self.html()), display_id=True)
        else:
            self._handle.update(HTML(self.html()))
