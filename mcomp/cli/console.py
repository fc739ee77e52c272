"""What a person sees while a run goes on: rich bars on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcomp.engine.events import Event, Listener
from mcomp.recipe.diagnostics import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def listener_for(log_format: str, *, quiet_terminal: bool = False) -> Iterator[Listener]:
    """The listener for standard error: ``auto``, ``plain`` or ``json``; bars only when it is a terminal."""
    if log_format == "json":
        yield _json_lines
    elif log_format == "auto" and sys.stderr.isatty() and not quiet_terminal:
        with _bars() as listener:
            yield listener
    else:
        yield PlainLines()


def _json_lines(event: Event) -> None:
    if event["event"] != "run_finished":  # its payload is the result itself, printed elsewhere
        sys.stderr.write(json.dumps(event, default=str) + "\n")


def summary(metrics: dict[str, Any]) -> str:
    """The figures worth a line: ``top-1 98.61 %, 612 k params, 0.61 MB``."""
    from mcomp.engine.units import bytes_text, count_text, top1_text

    parts = []
    if "top1" in metrics:
        parts.append(f"top-1 {top1_text(metrics['top1'])} %")
    if "params" in metrics:
        parts.append(f"{count_text(metrics['params'])} params")
    if "bytes" in metrics:
        parts.append(bytes_text(metrics["bytes"]))
    return ", ".join(parts)


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


def line_for(event: Event) -> str | None:
    """The plain line of an event, or None when it deserves none."""
    stage = event.get("stage")
    match event["event"]:
        case "run_started":
            waiting = sum(planned["status"] == "hit" for planned in event["plan"])
            return f"run {event['run']}: {len(event['plan'])} stages, {waiting} cached"
        case "stage_finished":
            outcome = event["outcome"]
            seconds = "" if outcome["status"] == "hit" else f", {outcome['seconds']:.1f} s"
            return f"[{stage}] {outcome['status']}{seconds}: {summary(outcome['metrics'])}"
        case "epoch":
            return f"[{stage}] {epoch_text(event)}"
        case "status" | "log" | "notice":
            return f"[{stage}] {event.get('text', '')}" if stage else str(event.get("text", ""))
    return None


class PlainLines:
    """One line per event worth one; inside a long epoch, one every ten seconds."""

    def __init__(self) -> None:
        self._spoke = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Print the event's line to standard error."""
        line = line_for(event)
        if line is None and event["event"] == "step" and time.monotonic() - self._spoke > 10:
            line = f"[{event['stage']}] {_step_text(event)}"
        if line is not None:
            self._spoke = time.monotonic()
            sys.stderr.write(visible(line) + "\n")


def _step_text(event: Event) -> str:
    parts = [f"epoch {event.get('epoch')}/{event.get('epochs')}", f"step {event.get('step')}/{event.get('steps')}"]
    if isinstance(event.get("loss"), int | float):
        parts.append(f"loss {event['loss']:.4f}")
    if isinstance(event.get("top1"), int | float):
        parts.append(f"top-1 {event['top1']:.2f} %")
    if isinstance(event.get("images_per_s"), int | float):
        parts.append(f"{event['images_per_s']:.0f} images/s")
    if isinstance(event.get("eta_s"), int | float):
        parts.append(f"{event['eta_s']:.0f} s left")
    return ", ".join(parts)


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
            self._task = self._progress.add_task("", stage=escape(stage), line="", total=None)
        elif kind == "step" and self._task is not None:
            self._advance(event)
        elif kind == "stage_finished" and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        line = None if kind == "step" else line_for(event)
        if line is not None and kind != "run_finished":
            self._progress.console.print(escape(visible(line)), highlight=False, soft_wrap=True)

    def _advance(self, event: Event) -> None:
        assert self._task is not None
        steps, epochs = event.get("steps"), event.get("epochs")
        if isinstance(steps, int) and isinstance(epochs, int):
            finished = (int(event.get("epoch", 1)) - 1) * steps + int(event.get("step", 0))
            self._progress.update(self._task, completed=finished, total=steps * epochs)
        self._progress.update(self._task, line=visible(_step_text(event)))
