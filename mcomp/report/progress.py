"""A run under way as a person sees it: rich bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcomp.engine.events import Event, Listener
from mcomp.engine.summary import figures_text
from mcomp.errors import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SILENCE = 10.0  # seconds after which a long epoch says a line


@contextmanager
def display(progress: bool | None) -> Iterator[Sequence[Listener]]:
    """The display that ``from mcomp import Engine`` installs.

    A notebook shows every run; elsewhere only ``Engine(progress=True)`` does, on standard error.

    Args:
        progress: as given to the engine; None is left to the surroundings.
    """
    from mcomp.report.notebook import NotebookProgress, in_notebook

    if in_notebook():
        yield [NotebookProgress()]
    elif progress:
        with terminal_progress() as listener:
            yield [listener]
    else:
        yield []


@contextmanager
def terminal_progress(*, bars: bool = True) -> Iterator[Listener]:
    """The listener for standard error: bars where it is a terminal and they are wanted, else plain lines."""
    if bars and sys.stderr.isatty():
        with _bars() as listener:
            yield listener
    else:
        yield PlainLines()


def epoch_text(event: Event) -> str:
    """One epoch as a line."""
    parts = [f"epoch {event.get('epoch')}/{event.get('epochs')}"]
    for field, label, form in (
        ("loss", "loss", "{:.4f}"),
        ("top1", "train top-1", "{:.2f} %"),
        ("val_top1", "val top-1", "{:.2f} %"),
        ("lr", "lr", "{:.2g}"),
        ("images_per_s", "", "{:.0f} images/s"),
    ):
        value = event.get(field)
        if isinstance(value, int | float):
            parts.append(f"{label} {form.format(value)}".strip())
    return ", ".join(parts)


def step_text(event: Event) -> str:
    """Where an epoch is, or a stage that knows none, as a line."""
    parts = [f"{event.get('unit', 'step')} {event.get('step')}/{event.get('steps')}"]
    if "epochs" in event:
        parts.insert(0, f"epoch {event.get('epoch')}/{event['epochs']}")
    if isinstance(event.get("text"), str):
        parts.append(event["text"])
    for field, form in (
        ("best_top1", "best {:.2f} %"),
        ("loss", "loss {:.4f}"),
        ("top1", "top-1 {:.2f} %"),
        ("images_per_s", "{:.0f} images/s"),
        ("eta_s", "{:.0f} s left"),
    ):
        value = event.get(field)
        if isinstance(value, int | float):
            parts.append(form.format(value))
    return ", ".join(parts)


def line_for(event: Event) -> str | None:
    """The plain line of an event, or None when it deserves none."""
    stage = event.get("stage")
    match event["event"]:
        case "run_started":
            waiting = sum(planned["status"] == "hit" for planned in event["plan"])
            return f"run {event['run']}: {len(event['plan'])} stages, {waiting} cached"
        case "stage_finished":
            return f"[{stage}] {outcome_text(event['outcome'])}"
        case "epoch":
            return f"[{stage}] {epoch_text(event)}"
        case "status" | "log" | "notice":
            return f"[{stage}] {event.get('text', '')}" if stage else str(event.get("text", ""))
    return None


def outcome_text(outcome: dict[str, Any]) -> str:
    """How a stage ended: ``run, 12.3 s: top-1 98.61 %, 612 k params``."""
    seconds = f", {outcome['seconds']:.1f} s" if outcome["status"] in ("run", "resumed", "failed") else ""
    figures = figures_text(outcome["metrics"])
    return f"{outcome.get('outcome', outcome['status'])}{seconds}" + (f": {figures}" if figures else "")


class PlainLines:
    """One line per event worth one; inside a long epoch, one every ten seconds."""

    def __init__(self) -> None:
        self._spoke = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Print the event's line to standard error."""
        line = line_for(event)
        if line is None and event["event"] == "step" and time.monotonic() - self._spoke > _SILENCE:
            line = f"[{event['stage']}] {step_text(event)}"
        if line is not None:
            self._spoke = time.monotonic()
            sys.stderr.write(visible(line) + "\n")


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.fields[stage]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _BarListener(progress)


class _BarListener:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        from rich.markup import escape

        kind, stage = event["event"], event.get("stage") or ""
        if kind == "stage_started":
            self._remove()  # a stage that failed was never finished
            self._task = self._progress.add_task("", stage=escape(stage), line="", total=None)
        elif kind == "step" and self._task is not None:
            self._advance(self._task, event)
        elif kind in ("stage_finished", "run_finished"):
            self._remove()
        line = line_for(event)
        if line is not None:
            self._progress.console.print(escape(visible(line)), highlight=False, soft_wrap=True)

    def _advance(self, task: TaskID, event: Event) -> None:
        steps, epochs = event.get("steps"), event.get("epochs")
        if isinstance(steps, int) and epochs is None:
            self._progress.update(task, completed=int(event.get("step", 0)), total=steps)
        elif isinstance(steps, int) and isinstance(epochs, int):
            finished = (int(event.get("epoch", 1)) - 1) * steps + int(event.get("step", 0))
            self._progress.update(task, completed=finished, total=steps * epochs)
        self._progress.update(task, line=visible(step_text(event)))

    def _remove(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
