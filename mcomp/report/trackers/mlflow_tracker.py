"""MLflow: one run each, in the experiment named after the recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from mcomp.engine.summary import verdict_text
from mcomp.recipe.diagnostics import shown
from mcomp.report.trackers.base import TrackedRun, Tracker, not_opened, plain, required, status_text
from mcomp.report.trackers.parameters import flat_parameters

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"
_LONGEST = 500  # characters of a value: the smallest limit that an MLflow backend has had
_BATCH = 100  # parameters in one request
_STATUS = {"ok": "FINISHED", "gate_failed": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowTracker(Tracker):
    """Writes to the tracking server, database or folder that ``URI`` names.

    Without one it is ``MLFLOW_TRACKING_URI``, else the folder ``mlruns`` in the store. MLflow opens a folder only where
    ``MLFLOW_ALLOW_FILE_STORE=true``; who names one means it, so that is set while the folder is opened, unless the
    variable already says something. ``mlflow-skinny`` is enough for a folder or a server; a database
    (``sqlite:///runs.db``) needs the whole of ``mlflow``.
    """

    name = "mlflow"

    def __init__(self, target: str | None, store_root: Path) -> None:
        super().__init__(target, store_root)
        self._tracking: Any = required("mlflow.tracking", "mlflow", "mlflow-skinny")
        self._entities: Any = required("mlflow.entities", "mlflow", "mlflow-skinny")
        self._uri, folder = _resolved(target or os.environ.get("MLFLOW_TRACKING_URI") or str(store_root / "mlruns"))
        self._is_folder = folder is not None
        self._opened: MlflowClient | None = None
        self._id = ""
        if folder is None or not self.in_store(folder):
            self._opened = self._open()  # a server that is not there is found now

    def _open(self) -> MlflowClient:
        try:
            with _file_store_allowed(self._is_folder):
                client: MlflowClient = self._tracking.MlflowClient(tracking_uri=self._uri)
                client.search_experiments(max_results=1)
                return client
        except Exception as error:  # requests', sqlalchemy's, mlflow's own: all of them mean the same
            hint = "check the address; a folder needs only `mlflow-skinny`, a database (`sqlite:///…`) all of `mlflow`"
            raise not_opened("mlflow", f"`{self._uri}`", error, hint) from error

    @property
    def _client(self) -> MlflowClient:
        assert self._opened is not None
        return self._opened

    def begin(self, run: TrackedRun) -> None:
        """Create the run; log its recipe as parameters and as a file."""
        self._opened = self._opened or self._open()
        name = plain(run.name)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        tags = {"mcomp.run": run.id, "mcomp.recipe": run.name}
        tags |= {f"mcomp.sweep.{plain(path)}": _cut(value) for path, value in run.sweep.items()}
        created = self._client.create_run(number, start_time=round(run.started * 1000), run_name=run.id, tags=tags)
        self._id = created.info.run_id
        lock = run.lock
        parameters = [
            self._entities.Param(plain(path)[:250], _cut(value)) for path, value in flat_parameters(lock).items()
        ]
        for first in range(0, len(parameters), _BATCH):
            self._client.log_batch(self._id, params=parameters[first : first + _BATCH])
        self._client.log_text(self._id, lock, "recipe.lock.yaml")

    def scalars(self, stage: str, values: Mapping[str, float], epoch: int, time: float) -> None:
        """One metric per value, named ``<stage>/<name>``."""
        metrics = [
            self._entities.Metric(f"{stage}/{name}", value, round(time * 1000), epoch) for name, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def outcome(self, outcome: dict[str, Any], time: float) -> None:
        """Status, gates and backends as tags."""
        stage = outcome["id"]
        tags = {f"{stage}.status": outcome["status"]}
        for number, gate in enumerate(outcome["gates"], 1):
            tags[f"{stage}.gate_{number}"] = verdict_text(gate)
        tags |= {f"{stage}.{plain(name)}": text for name, text in outcome["metrics"].items() if isinstance(text, str)}
        entities = [self._entities.RunTag(name, _cut(text)) for name, text in tags.items()]
        self._client.log_batch(self._id, tags=entities)

    def end(self, run: TrackedRun, status: str, result: dict[str, Any]) -> None:
        """Log the result, and end the run as FINISHED, FAILED or KILLED."""
        self._client.set_tag(self._id, "mcomp.status", _cut(status_text(result)))
        record = run.folder / "result.json"
        if record.is_file():
            self._client.log_artifact(self._id, str(record))
        self._client.set_terminated(self._id, _STATUS[status])


def _resolved(uri: str) -> tuple[str, Path | None]:
    """The address in full, and the folder where it is one."""
    parts = urlparse(uri)
    if parts.scheme == "file":
        return uri, Path(url2pathname(parts.path))
    if parts.scheme or uri.startswith("databricks"):
        return uri, None
    return Path(uri).absolute().as_uri(), Path(uri)


def _cut(value: Any) -> str:
    return shown(str(value), _LONGEST)


@contextmanager
def _file_store_allowed(needed: bool) -> Iterator[None]:
    if not needed or _FILE_STORE in os.environ:
        yield
        return
    os.environ[_FILE_STORE] = "true"
    try:
        yield
    finally:
        del os.environ[_FILE_STORE]
