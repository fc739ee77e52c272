"""Whole runs of ``mcomp`` in processes that can be killed, without importing torch anew for each.

A server process imports everything once and forks a child per command; the child is an ordinary process that runs
``mcomp.cli.main`` and dies by SIGKILL where it was told to. The server is this file as a script; :class:`Nursery` talks
to it.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

MODULES = [
    "mcomp.cli.apply_verb",
    "mcomp.engine.executor",
    "mcomp.engine.workbench",
    "mcomp.training.loop",
    "mcomp.pruning",
    "mcomp.quantization",
    "mcomp.metrics",
    "mcomp.data.digits",
    "onnx",
    "onnxruntime",
]

#: Calls by which a store comes to hold something; a process can be told to die just before the n-th of them.
STEPS = [
    (os, "replace"),
    (os, "rename"),
    (os, "fsync"),
    (os, "unlink"),
    (os, "mkdir"),
    (os, "rmdir"),
    (builtins, "open"),
]


class Nursery:
    """A server of children; ``run`` waits for one of them."""

    def __init__(self) -> None:
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **threads},
        )

    def run(self, *words: str, kill_after: float | None = None, die_at: int | None = None) -> dict[str, Any]:
        """Run ``mcomp words``; SIGKILL it after so many seconds, or just before its n-th step of writing.

        Returns:
            ``code`` (negative for a signal), ``out``, ``seconds``, and ``steps`` of writing that it took, where it
            lived to count them.
        """
        self.start(*words, kill_after=kill_after, die_at=die_at)
        return self.finish()[0]

    def start(self, *words: str, copies: int = 1, kill_after: float | None = None, die_at: int | None = None) -> None:
        """Start as many processes at once; :meth:`finish` waits for them."""
        assert self._server.stdin is not None
        command = {"words": words, "copies": copies, "kill_after": kill_after, "die_at": die_at}
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()

    def finish(self) -> list[dict[str, Any]]:
        """What :meth:`run` returns, of each process."""
        assert self._server.stdout is not None
        answers: list[dict[str, Any]] = json.loads(self._server.stdout.readline())
        return answers

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        command = json.loads(line)
        children = [bear(command) for _ in range(command["copies"])]
        answers.write(json.dumps([outcome(*child, command["kill_after"]) for child in children]) + "\n")
        answers.flush()


def bear(command: dict[str, Any]) -> tuple[int, int, float]:
    """Start one child: its process id, what it prints, and when it began."""
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(writer, 1)
        live(command["words"], command["die_at"])
    os.close(writer)
    return child, reader, started


def outcome(child: int, reader: int, started: float, kill_after: float | None) -> dict[str, Any]:
    """How it ended."""
    text, _, steps = listen(child, reader, kill_after).rpartition("\nsteps ")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "code": code,
        "out": text,
        "seconds": time.monotonic() - started,
        "steps": int(steps) if code >= 0 else None,
    }


def listen(child: int, reader: int, kill_after: float | None) -> str:
    """What the child prints until it ends, or is killed."""
    import select

    deadline = None if kill_after is None else time.monotonic() + kill_after
    said = b""
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([stream], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                deadline = None
                continue
            part = stream.read(65536)
            if not part:
                return said.decode()
            said += part


def live(words: list[str], die_at: int | None) -> None:
    """Be ``mcomp words``."""
    count = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for owner, name in STEPS:
        setattr(owner, name, counted(getattr(owner, name)))
    from mcomp.cli.main import main

    code = main(words)
    sys.stdout.write(f"\nsteps {count}")
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
