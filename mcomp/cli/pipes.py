"""Output whose reader may go away: ``mcomp runs | head``, ``mcomp apply … 2>&1 | head -2``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


@contextmanager
def patient_output() -> Iterator[None]:
    """Let the work go on, and end as it ends, whoever stops reading what it prints."""
    kept = sys.stdout, sys.stderr
    out, err = (_Patient(stream) for stream in kept)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()  # what is left over would fail when the interpreter ends, where nobody can catch it
        err.flush()
        sys.stdout, sys.stderr = kept


class _Patient:
    """A text stream that goes to nowhere once its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._turn_away()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._turn_away()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _turn_away(self) -> None:
        """Point the descriptor at nothing: the stream keeps what it could not write, and must get rid of it."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
