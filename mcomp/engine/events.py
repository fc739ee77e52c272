"""A run's events: one JSON line each in ``events.jsonl``, and the same to every listener."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from mcomp.store.atomic import storage_errors

Event = dict[str, Any]


class Listener(Protocol):
    """Something that watches a run: the console, a log, a tracker."""

    def __call__(self, event: Event) -> None:
        """Take one event; ``event["event"]`` is its kind, ``event["stage"]`` the stage's id, if any."""


class EventLog:
    """Sends events to a file and to listeners.

    Steps go to listeners only: a file with thousands of lines a minute helps nobody.
    """

    def __init__(self, path: Path | None, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = tuple(listeners)
        self._path = path
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if path else None

    def emit(self, kind: str, stage: str | None = None, **fields: Any) -> None:
        """Send one event."""
        event: Event = {"event": kind, "time": round(time.time(), 3), "stage": stage, **fields}
        if self._file is not None and self._path is not None and kind != "step":
            with storage_errors(self._path):
                self._file.write(json.dumps(event, default=str) + "\n")
                self._file.flush()
        for listener in self._listeners:
            listener(event)

    def reporter(self, stage: str) -> Callable[..., None]:
        """The ``ctx.report`` of one stage."""

        def report(kind: str, **fields: Any) -> None:
            self.emit(kind, stage, **fields)

        return report

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
