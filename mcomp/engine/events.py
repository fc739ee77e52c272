"""A run's events: one JSON line each in ``events.jsonl``, and the same to every listener."""

from __future__ import annotations

import json
import reprlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from mcomp.errors import StageError
from mcomp.store.atomic import storage_errors
from mcomp.store.digest import finite

Event = dict[str, Any]

#: Fields of every event, which a stage's own must not overwrite.
_OWN = {"event", "time", "stage"}
_PLAIN = (str, int, float, bool, type(None))


class Listener(Protocol):
    """Something that watches a run: the console, a log, a tracker."""

    def __call__(self, event: Event) -> None:
        """Take one event; ``event["event"]`` is its kind, ``event["stage"]`` the stage's id, if any."""


class EventLog:
    """Sends events to a file and to listeners.

    Steps go to listeners only: a file with thousands of lines a minute helps nobody.
    """

    def __init__(self, path: Path | None, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._path = path
        self._later: deque[str] = deque()
        self._file: IO[str] | None = None
        if path is not None:
            with storage_errors(path):
                self._file = path.open("a", encoding="utf-8")

    def emit(self, kind: str, stage: str | None = None, /, **fields: Any) -> None:
        """Send one event, after the notices that waited for it."""
        while self._later:
            self._send(_event("notice", stage, {"text": self._later.popleft()}))
        self._send(_event(kind, stage, fields))

    def later(self, text: str) -> None:
        """Leave a notice for the next event: a signal handler must not write to a file that is being written."""
        self._later.append(text)

    def _send(self, event: Event) -> None:
        if self._file is not None and self._path is not None and event["event"] != "step":
            with storage_errors(self._path):
                self._file.write(_line(event) + "\n")
                self._file.flush()
        lost = []
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except (Exception, SystemExit) as error:  # whoever watches a run must not be able to end it
                self._listeners.remove(listener)
                lost.append(f"`{_name(listener)}` no longer watches this run: {_words(error)}")
        for text in lost:
            self.emit("notice", text=text)

    def reporter(self, stage: str) -> Callable[..., None]:
        """The ``ctx.report`` of one stage.

        It raises a StageError, MC408, over a field whose name is among those that every event has.
        """

        def report(kind: str, /, **fields: Any) -> None:
            taken = sorted(_OWN & fields.keys())
            if taken or not isinstance(kind, str):
                what = f"a field `{taken[0]}`, which every event has already" if taken else f"the kind {kind!r:.40}"
                hint = "give that field another name" if taken else "a kind is a word, e.g. `status`"
                raise StageError(f"stage `{stage}` reported {what}", code="MC408", hint=hint)
            self.emit(kind, stage, **fields)

        return report

    def snapshot(self, stage: str, state: Mapping[str, Any]) -> dict[str, int]:
        """Tell that a snapshot was kept, and how far into the stage; returns that."""
        progress = progress_of(state)
        self.emit("snapshot", stage, **progress)
        return progress

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _event(kind: str, stage: str | None, fields: Mapping[str, Any]) -> Event:
    return {"event": kind, "time": round(time.time(), 3), "stage": stage, **fields}


def _line(event: Event) -> str:
    """An event as JSON; what a stage's author put in that JSON cannot hold stands as text."""
    try:
        return json.dumps(finite(event), default=str)
    except Exception:  # keys that are no texts, a list in itself, or whatever their own `__str__` raises
        plain = {name: value if isinstance(value, _PLAIN) else reprlib.repr(value) for name, value in event.items()}
        return json.dumps(finite(plain))


def progress_of(state: Mapping[str, Any]) -> dict[str, int]:
    """What a snapshot says of how far it is."""
    return {name: state[name] for name in ("epoch", "epochs", "step", "steps") if isinstance(state.get(name), int)}


def _name(listener: Listener) -> str:
    """What its author calls it: a function's name, or a class's."""
    return str(getattr(listener, "name", None) or getattr(listener, "__qualname__", type(listener).__qualname__))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
