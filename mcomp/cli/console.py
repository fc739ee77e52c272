"""What ``--log-format`` chooses: bars on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mcomp.engine.events import Event, Listener
from mcomp.report.progress import terminal_progress


@contextmanager
def listener_for(log_format: str, *, quiet_terminal: bool = False) -> Iterator[Listener]:
    """The listener for standard error: ``auto``, ``plain`` or ``json``; bars only when it is a terminal."""
    if log_format == "json":
        yield _json_lines
    else:
        with terminal_progress(bars=log_format == "auto" and not quiet_terminal) as listener:
            yield listener


def _json_lines(event: Event) -> None:
    if event["event"] != "run_finished":  # its payload is the result itself, printed elsewhere
        sys.stderr.write(json.dumps(event, default=str) + "\n")
