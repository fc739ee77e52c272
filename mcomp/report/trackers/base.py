"""What all trackers do with a run's events; each says only how its package takes them."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mcomp.engine.events import Event
from mcomp.errors import BackendMissingError, PreflightError

#: Fields of an epoch event that are its place, not its figures.
_PLACE = {"event", "time", "stage", "epoch", "epochs"}


@dataclass(frozen=True)
class TrackedRun:
    """The facts of a run that are known when it starts.

    Attributes:
        id: of the run in its store.
        name: of the recipe.
        started: seconds since 1970.
        folder: of the run, which holds ``recipe.lock.yaml`` from the start and ``result.json`` at the end.
        sweep: what a sweep set for this run, path to value.
    """

    id: str
    name: str
    started: float
    folder: Path
    sweep: dict[str, Any]

    @property
    def lock(self) -> str:
        """The resolved recipe."""
        return (self.folder / "recipe.lock.yaml").read_text(encoding="utf-8")

    @property
    def files(self) -> list[Path]:
        """The run's record, as far as it was written."""
        return [path for name in ("recipe.lock.yaml", "result.json") if (path := self.folder / name).is_file()]


class EpochAxis:
    """One x axis for a whole run: the epochs of its stages, one after another."""

    def __init__(self) -> None:
        self.now = 0
        self._start = 0
        self._last: tuple[str | None, int] = (None, 0)

    def at(self, stage: str | None, epoch: int) -> int:
        """The run's epoch that ``epoch`` of ``stage`` is; a stage that trains twice goes on, too."""
        before, last = self._last
        if stage != before or epoch <= last:
            self._start = self.now
        self._last = (stage, epoch)
        self.now = self._start + epoch
        return self.now


class Tracker(ABC):
    """A listener that logs every run it hears of as one run of its package.

    It raises what its package raises: who drives it decides what that means for the run.

    Args:
        target: what follows ``=`` in the spec.
        store_root: of the store that the runs go to.

    Attributes:
        name: as a spec names it.
    """

    name: ClassVar[str]

    def __init__(self, target: str | None, store_root: Path) -> None:
        self.target = target
        self.store_root = store_root
        self._run: TrackedRun | None = None
        self._axis = EpochAxis()

    def __call__(self, event: Event) -> None:
        """Log one event."""
        try:
            self._take(event)
        except Exception:
            self._run = None  # what failed once is not asked to end well, too
            raise

    def in_store(self, folder: Path) -> bool:
        """True where ``folder`` cannot be made before the first run starts: a store is laid out in an empty folder."""
        return folder.absolute().is_relative_to(self.store_root.absolute())

    def close(self) -> None:
        """End a run that nothing was heard of any more."""
        if self._run is not None:
            run, self._run = self._run, None
            self.end(run, "interrupted", {})

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "run_started":
            self.close()
            self._axis = EpochAxis()
            run = TrackedRun(event["run"], event["name"], event["time"], Path(event["folder"]), event["sweep"])
            self.begin(run)
            self._run = run
        elif self._run is None:
            return
        elif kind == "epoch":
            found = {f"epoch_{name}": value for name, value in numbers(event).items() if name not in _PLACE}
            self.scalars(event["stage"], found, self._axis.at(event["stage"], event["epoch"]), event["time"])
        elif kind == "stage_finished":
            outcome = event["outcome"]
            self.scalars(event["stage"], numbers(outcome["metrics"]), self._axis.now, event["time"])
            self.outcome(outcome, event["time"])
        elif kind == "run_finished":
            run, self._run = self._run, None
            self.end(run, event["result"]["status"], event["result"])

    @abstractmethod
    def begin(self, run: TrackedRun) -> None:
        """A run starts: log its recipe."""

    @abstractmethod
    def scalars(self, stage: str, values: Mapping[str, float], epoch: int, time: float) -> None:
        """Log figures of ``stage`` at an epoch of the run; ``time`` in seconds since 1970."""

    @abstractmethod
    def outcome(self, outcome: dict[str, Any], time: float) -> None:
        """A stage is done: log its status, its gates and what is no number."""

    @abstractmethod
    def end(self, run: TrackedRun, status: str, result: dict[str, Any]) -> None:
        """A run is over: ``ok``, ``gate_failed``, ``failed`` or ``interrupted``."""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among ``values``, under names that every tracker takes."""
    return {
        plain(name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def plain(name: str) -> str:
    """``name`` with nothing but letters, digits, ``_``, ``-``, ``.`` and spaces: what MLflow allows."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "_-. ") else "_" for char in name)


def status_text(result: dict[str, Any]) -> str:
    """How the run ended, and why if not well."""
    faults = "; ".join(f"{error['code']}: {error['message']}" for error in result.get("errors", []))
    return f"{result.get('status', 'interrupted')}{f': {faults}' if faults else ''}"


def required(module: str, tracker: str, install: str) -> Any:
    """Import a module of a tracker's package; ``install`` is what to give to pip.

    Raises:
        BackendMissingError: MC613, it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"the tracker `{tracker}` needs a package that is not installed ({error.name})",
            code="MC613",
            hint=f"`pip install {install}`, or leave the tracker out",
        ) from error


def not_opened(tracker: str, where: str, why: Exception, hint: str) -> PreflightError:
    """The error of a tracker that cannot write where it should."""
    return PreflightError(
        f"the tracker `{tracker}` cannot be opened at {where}",
        code="MC615",
        why=" ".join(str(why).split()) or type(why).__name__,
        hint=hint,
    )
