"""Candidates tried on a Ray cluster: the setup travels through its object store, tasks are retried by Ray itself."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mcomp.errors import BackendMissingError, PreflightError, plural
from mcomp.search.evaluator import Evaluator
from mcomp.search.local_workers import TRIES
from mcomp.search.study import Task, Trial
from mcomp.stages.searching.setup import SearchSetup

_PATIENCE = 0.2  # seconds between two looks at whether to stop


@dataclass
class RayWorkers:
    """Every CPU of a cluster.

    Args:
        ray: the library, connected.
        setup: reference to the packed setup in the object store.
        digest: of the study that it belongs to.
    """

    ray: Any
    setup: Any
    digest: str

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        """As :class:`mcomp.search.study.Workers` has it; what is running at a stop is cancelled."""
        remote = self.ray.remote(num_cpus=1, max_retries=TRIES - 1)(_try)
        given = {remote.remote(self.setup, self.digest, asdict(task)): task for task in tasks}
        while given and not should_stop():
            ready, _ = self.ray.wait(list(given), num_returns=1, timeout=_PATIENCE)
            for reference in ready:
                task = given.pop(reference)
                yield self._trial(task, reference)
        for reference in given:
            self.ray.cancel(reference, force=True)

    def _trial(self, task: Task, reference: Any) -> Trial:
        try:
            fitness, probability, error = self.ray.get(reference)
        except self.ray.exceptions.WorkerCrashedError as crash:
            return task.trial(None, error=f"it ended {plural(TRIES, 'worker')}: {str(crash).partition(chr(10))[0]}")
        return task.trial(fitness, probability, error)


@contextmanager
def ray_workers(setup: SearchSetup, address: str, folder: Path) -> Iterator[RayWorkers]:
    """Connect, put the setup where every node sees it, and disconnect in the end.

    Args:
        setup: of the search; mcomp of this version has to be installed on the nodes.
        address: of the cluster; ``auto`` for the one at hand, ``local`` begins one here.
        folder: to write the setup into.

    Raises:
        BackendMissingError: MC622, Ray is not installed.
        PreflightError: MC494, there is no such cluster.
    """
    ray = _import()
    setup.write(folder)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except ConnectionError as error:
        raise PreflightError(
            f"there is no Ray cluster at `{address}`",
            code="MC494",
            why=str(error).partition("\n")[0],
            hint="`ray start --head` begins one here, and `ray: local` one for this search alone",
        ) from error
    try:
        with tempfile.TemporaryDirectory() as place:
            packed = shutil.make_archive(str(Path(place) / "setup"), "tar", folder)
            reference = ray.put(Path(packed).read_bytes())
        yield RayWorkers(ray, reference, setup.study)
    finally:
        ray.shutdown()


def _try(packed: bytes, digest: str, task: dict[str, Any]) -> tuple[float | None, float | None, str]:
    """On a node: try one candidate. The setup is unpacked once per process."""
    _PACKED[digest] = packed
    trial = _evaluator(digest)(Task(task["number"], task["level"], tuple(task["genome"])))
    return trial.fitness, trial.probability, trial.error


_PACKED: dict[str, bytes] = {}


@cache
def _evaluator(digest: str) -> Evaluator:
    folder = Path(tempfile.mkdtemp(prefix="mcomp-search-"))
    packed = folder / "setup.tar"
    packed.write_bytes(_PACKED[digest])
    shutil.unpack_archive(packed, folder, filter="data")
    packed.unlink()
    return SearchSetup.read(folder, trust=True).evaluator()


def _import() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BackendMissingError(
            "`ray` is asked to try candidates, and it is not installed",
            code="MC622",
            hint="pip install 'mcomp[ray]', or `workers: N` for processes of this machine",
        ) from error
