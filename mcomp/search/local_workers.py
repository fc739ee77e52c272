"""Processes of this machine that try candidates: tasks as JSON lines in, trials out, the dead replaced."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from mcomp.errors import StageError, plural
from mcomp.search.study import Task, Trial

#: A candidate that ends so many workers is given up, and so is a worker that never gets ready.
TRIES = 3
_PATIENCE = 0.2  # seconds between two looks at whether to stop
_FAREWELL = 5.0  # seconds that a worker has to end by itself


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    number: int
    ready: bool = False
    task: Task | None = None


@dataclass
class LocalWorkers:
    """A pool of processes. Each says ``{"ready": true}``, then answers every task line with a trial line.

    A worker that dies is replaced, and its task given to another.

    Args:
        command: starts one.
        count: how many.
        logs: folder for what they write to stderr.
        environment: of the processes.
        log: told in a line what happened to one.

    Raises:
        StageError: MC490, workers die before they are ready.
    """

    command: Sequence[str]
    count: int
    logs: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    log: Callable[[str], None] = lambda text: None
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _said: queue.SimpleQueue[tuple[int, bytes]] = field(default_factory=queue.SimpleQueue)
    _started: int = 0
    _stillborn: int = 0

    def __enter__(self) -> LocalWorkers:
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            _hang_up(worker.process)
            if kind is not None or worker.task is not None or not worker.ready:  # nobody waits for what it is at
                worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(_FAREWELL)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [worker.process.pid for worker in self._workers.values()]

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        """The trials as they come; what is running at a stop is left behind."""
        waiting, deaths, left = deque(tasks), dict.fromkeys((task.key for task in tasks), 0), len(tasks)
        while left:
            if should_stop():
                return
            self._hand_out(waiting)
            try:
                number, line = self._said.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            worker = self._workers.get(number)
            if worker is None:
                continue
            if line:
                trial = self._answer(worker, line)
            else:
                trial = self._bury(worker, waiting, deaths)
            if trial is not None and (trial.number, trial.level) in deaths:  # not of what an earlier stop left
                left -= 1
                yield trial

    def _hand_out(self, waiting: deque[Task]) -> None:
        for worker in self._workers.values():
            if worker.ready and worker.task is None and waiting:
                task = waiting.popleft()
                worker.task = task
                stdin = worker.process.stdin
                assert stdin is not None
                try:
                    stdin.write(json.dumps(asdict(task)).encode() + b"\n")
                    stdin.flush()
                except BrokenPipeError:
                    return  # its end is on its way through the queue, and gives the task back

    def _answer(self, worker: _Worker, line: bytes) -> Trial | None:
        held = json.loads(line)
        if "ready" in held:
            worker.ready = True
            return None
        task, worker.task = worker.task, None
        assert task is not None
        return task.trial(held["fitness"], held["probability"], held["error"])

    def _bury(self, worker: _Worker, waiting: deque[Task], deaths: dict[tuple[int, str], int]) -> Trial | None:
        """A dead worker: another in its place, its task back in the queue; the trial where that ended too many."""
        code = worker.process.wait()
        _hang_up(worker.process)
        del self._workers[worker.number]
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise self._none_gets_ready(worker, code)
        task = worker.task
        self._start()
        if task is None or task.key not in deaths:
            return None
        deaths[task.key] += 1
        if deaths[task.key] < TRIES:
            self.log(f"a worker ended with {code} at candidate {task.number}: another tries it")
            waiting.appendleft(task)
            return None
        return task.trial(None, error=f"it ended {plural(TRIES, 'worker')}, the last with {code}")

    def _none_gets_ready(self, worker: _Worker, code: int) -> StageError:
        lines = self._log_of(worker.number).read_text(errors="replace").strip().splitlines()
        return StageError(
            f"a worker of the search ended with {code} before it was ready",
            code="MC490",
            why=lines[-1] if lines else "it wrote nothing",
            hint=f"its whole output is in {self._log_of(worker.number)}; `workers: 1` tries candidates in this process",
        )

    def _log_of(self, number: int) -> Path:
        return self.logs / f"worker-{number}.log"

    def _start(self) -> None:
        number = self._started
        self._started += 1
        with self._log_of(number).open("wb") as errors:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C is for the one that hands out the tasks
            )
        self._workers[number] = _Worker(process, number)
        threading.Thread(target=self._listen, args=(number, process), daemon=True).start()

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # half a line is what a kill left
                    self._said.put((number, line))
        self._said.put((number, b""))


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Its input ends; what a dead one never read is dropped."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
