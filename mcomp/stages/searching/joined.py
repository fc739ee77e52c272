"""A search whose candidates are tried by whoever joins its study, some processes of this machine among them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcomp.errors import StageError
from mcomp.search.local_workers import TRIES
from mcomp.search.shared_study import JoinedWorkers, SharedStudy, open_study
from mcomp.stages.base import StageContext
from mcomp.stages.searching.options import SearchOptions
from mcomp.stages.searching.setup import SearchSetup

_FAREWELL = 5.0  # seconds that a process has to go home by itself


@contextmanager
def joined_workers(setup: SearchSetup, options: SearchOptions, ctx: StageContext) -> Iterator[JoinedWorkers]:
    """Claim the study, write the setup, start ``workers`` processes that join, and see that they live."""
    from mcomp.stages.searching.run import worker_environment

    shared = open_study(_placed(options.study or "", ctx.base_dir), make=True)
    folder = (ctx.work_dir / "setup").resolve()
    shared.claim(setup.study, folder, options.lost_after)  # before a file of another search could be replaced
    setup.write(folder)
    ctx.log(f"others join by: mcomp search --join {shared.address}; the setup is in {folder}")
    ours = _Ours(shared, folder, ctx.work_dir, worker_environment(), options.workers)
    try:
        ours.tend()
        yield JoinedWorkers(shared, lost_after=options.lost_after, log=ctx.log, tend=ours.tend)
    except BaseException:
        ours.end(at_once=True)
        raise
    shared.finish()
    ours.end(at_once=False)


def _placed(address: str, base_dir: Path | None) -> str:
    """A journal's path relative to the recipe, as every path in it; a URL is what it is."""
    return address if "://" in address or base_dir is None else str(base_dir / Path(address).expanduser())


@dataclass
class _Ours:
    """Processes of this machine that join; one that dies is replaced."""

    shared: SharedStudy
    folder: Path
    logs: Path
    environment: dict[str, str]
    count: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    deaths: int = 0
    started: int = 0

    def tend(self) -> None:
        """Start what is missing.

        Raises:
            StageError: MC490, they die again and again.
        """
        gone = [each for each in self.processes if each.poll() is not None]
        self.deaths += len(gone)
        if self.deaths > TRIES * self.count:
            last = self.logs / f"joined-{self.started - 1}.log"
            lines = last.read_text(errors="replace").strip().splitlines()
            raise StageError(
                f"processes that joined the search ended {self.deaths} times",
                code="MC490",
                why=lines[-1] if lines else "the last wrote nothing",
                hint=f"its whole output is in {last}",
            )
        self.processes = [each for each in self.processes if each.poll() is None]
        while len(self.processes) < self.count:
            self._start()

    def end(self, *, at_once: bool) -> None:
        """Send them home; they see the end of the study by themselves."""
        for each in self.processes:
            if at_once:
                each.terminate()
            try:
                each.wait(_FAREWELL)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        self.processes.clear()

    def _start(self) -> None:
        command = [sys.executable, "-m", "mcomp", "search", "--join", self.shared.address]
        with (self.logs / f"joined-{self.started}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [*command, "--setup", str(self.folder), "--trust"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            )
        self.started += 1
