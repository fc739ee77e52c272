"""Candidates handed out through Optuna's storage: a journal file that machines share, or a database.

Every task is a trial of one Optuna study. Whoever joins takes one that waits (the storage gives it to one alone), says
with a counter that it is alive, and tells its fitness. A task whose counter stands still is declared lost and published
again; what its first taker might still tell is refused by the storage. Needs the extra ``search``.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcomp.errors import BackendMissingError, PreflightError, UsageError
from mcomp.search.local_workers import TRIES
from mcomp.search.study import Task, Trial

#: Seconds between two signs of life, and without one until a task counts as lost.
BEAT, LOST_AFTER = 5.0, 60.0
_POLL = 0.3
_DEFAULT_NAME = "mcomp"
_STUDY, _SETUP, _DONE, _LOST_AFTER = "mcomp:study", "mcomp:setup", "mcomp:done", "mcomp:lost_after"
_TASK, _BEAT, _ERROR, _PROBABILITY = "mcomp:task", "mcomp:beat", "mcomp:error", "mcomp:probability"


@dataclass
class SharedStudy:
    """One study in a storage.

    Attributes:
        address: as :func:`open_study` got it.
        study: Optuna's.
    """

    address: str
    study: Any

    @property
    def fingerprint(self) -> str:
        """Of the search that it belongs to; empty before one has claimed it."""
        return str(self.study.user_attrs.get(_STUDY, ""))

    @property
    def setup(self) -> str:
        """The folder with what candidates are made of, as the search sees it."""
        return str(self.study.user_attrs.get(_SETUP, ""))

    @property
    def done(self) -> bool:
        """True once the search has ended."""
        return bool(self.study.user_attrs.get(_DONE, False))

    @property
    def beat(self) -> float:
        """Seconds between two signs of life that its search waits for."""
        return min(BEAT, float(self.study.user_attrs.get(_LOST_AFTER, LOST_AFTER)) / 4)

    def claim(self, fingerprint: str, setup: Path, lost_after: float = LOST_AFTER) -> None:
        """Make it the study of one search, anew or again.

        Args:
            fingerprint: of the search.
            setup: the folder with what candidates are made of.
            lost_after: seconds without a sign of life until the search gives a task to another.

        Raises:
            UsageError: MC493, it belongs to another search.
        """
        if self.fingerprint not in ("", fingerprint):
            raise UsageError(
                f"the study `{self.address}` belongs to another search",
                code="MC493",
                why="its network, its space or its budgets are others",
                hint="give this one a name of its own (`study: PLACE#NAME`), or go on with the recipe that began it",
            )
        self.study.set_user_attr(_STUDY, fingerprint)
        self.study.set_user_attr(_SETUP, str(setup))
        self.study.set_user_attr(_LOST_AFTER, lost_after)
        self.study.set_user_attr(_DONE, False)

    def finish(self) -> None:
        """Send everyone home."""
        self.study.set_user_attr(_DONE, True)


def open_study(address: str, *, make: bool) -> SharedStudy:
    """The study at ``PLACE`` or ``PLACE#NAME``: a journal file, or the URL of a database such as ``postgresql://…``.

    Args:
        address: where, and its name there.
        make: begin it if it is not there.

    Raises:
        BackendMissingError: MC622, Optuna or the database's driver is not installed.
        PreflightError: MC494, the storage cannot be reached, or the journal's folder is not there.
        UsageError: MC495, there is no such study, or the file is no journal.
    """
    optuna = _optuna()
    place, _, name = address.partition("#")
    name = name or _DEFAULT_NAME
    with _quiet(optuna):
        storage = _storage(optuna, place, make)
        try:
            if make:
                study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            else:
                study = optuna.load_study(storage=storage, study_name=name)
        except KeyError as error:
            there = ", ".join(f"`{each}`" for each in optuna.get_all_study_names(storage)) or "none yet"
            raise UsageError(
                f"`{place}` holds no study `{name}`",
                code="MC495",
                why=f"studies there: {there}",
                hint="begin it first: `mcomp apply` with a recipe whose `search` has this `study`",
            ) from error
    return SharedStudy(address, study)


@dataclass
class JoinedWorkers:
    """Everyone who joins the study. Tries nothing itself.

    Args:
        shared: claimed.
        lost_after: seconds without a sign of life until a task is given to another.
        log: told in a line what happened.
        tend: called again and again while results are waited for, to look after processes of one's own.
    """

    shared: SharedStudy
    lost_after: float = LOST_AFTER
    log: Callable[[str], None] = lambda text: None
    tend: Callable[[], None] = lambda: None
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)
    _losses: Counter[tuple[int, str]] = field(default_factory=Counter)

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        """As :class:`mcomp.search.study.Workers` has it; what an earlier run published is not published again."""
        open_tasks = {task.key: task for task in tasks}
        while open_tasks and not should_stop():
            self.tend()
            published = self._published(open_tasks)
            for key, task in list(open_tasks.items()):
                trial = self._outcome(task, published.get(key))
                if trial is not None:
                    del open_tasks[key]
                    yield trial
            if open_tasks:
                time.sleep(_POLL)

    def _published(self, wanted: dict[tuple[int, str], Task]) -> dict[tuple[int, str], Any]:
        """The newest trial of each task."""
        found = {}
        for trial in self.shared.study.get_trials(deepcopy=False):
            held = trial.user_attrs.get(_TASK)
            if held is None:
                continue
            key = held["number"], held["level"]
            if key in wanted and tuple(held["genome"]) == wanted[key].genome:
                found[key] = trial
        return found

    def _outcome(self, task: Task, trial: Any) -> Trial | None:
        """What became of a task; publish it where nobody is at it."""
        state = None if trial is None else trial.state.name
        if state == "COMPLETE":
            return task.trial(float(trial.value), float(trial.user_attrs[_PROBABILITY]))
        if state == "FAIL" and _ERROR in trial.user_attrs:
            return task.trial(None, error=str(trial.user_attrs[_ERROR]))
        if state == "RUNNING" and not self._lost(trial):
            return None
        if state == "RUNNING":
            _tell_failed(self.shared.study, trial.number)
            self._losses[task.key] += 1
            if self._losses[task.key] == TRIES:
                return task.trial(None, error=f"{TRIES} processes that had it are gone")
            self.log(f"whoever had candidate {task.number} is gone: another tries it")
        if state != "WAITING":
            self.shared.study.enqueue_trial({}, user_attrs={_TASK: asdict(task)})
        return None

    def _lost(self, trial: Any) -> bool:
        """By our own clock: those of other machines may be wrong."""
        beat, now = int(trial.user_attrs.get(_BEAT, 0)), time.monotonic()
        seen = self._seen.get(trial.number)
        if seen is None or seen[0] != beat:
            self._seen[trial.number] = beat, now
            return False
        return now - seen[1] > self.lost_after


def join(
    shared: SharedStudy,
    evaluate: Callable[[Task], Trial],
    *,
    should_stop: Callable[[], object] = lambda: False,
    wait: float | None = None,
    beat: float | None = None,
    on_trial: Callable[[Trial, bool], None] = lambda trial, counted: None,
) -> int:
    """Take candidates and try them until the search has ended.

    Args:
        shared: the study.
        evaluate: tries one.
        should_stop: asked between candidates.
        wait: seconds to wait for a candidate before going home; for ever without it.
        beat: seconds between signs of life; as the search wants them when left out.
        on_trial: told each trial, and whether it was the first to be told.

    Returns:
        The number of candidates that were tried.
    """
    tried, since = 0, time.monotonic()
    while not should_stop() and not shared.done:
        taken = _take(shared.study)
        if taken is None:
            if wait is not None and time.monotonic() - since > wait:
                break
            time.sleep(_POLL)
            continue
        trial, task = taken
        with _beating(trial, shared.beat if beat is None else beat):
            found = evaluate(task)
        counted = _told(shared.study, trial, found)
        on_trial(found, counted)
        tried, since = tried + 1, time.monotonic()
    return tried


def _take(study: Any) -> tuple[Any, Task] | None:
    """A candidate that waits; None where there is none."""
    waiting = _optuna().trial.TrialState.WAITING
    if not study.get_trials(deepcopy=False, states=(waiting,)):
        return None
    trial = study.ask()
    held = trial.user_attrs.get(_TASK)
    if held is None:  # another was faster, and a trial without a task came of it
        _tell_failed(study, trial.number)
        return None
    return trial, Task(held["number"], held["level"], tuple(held["genome"]))


def _told(study: Any, trial: Any, found: Trial) -> bool:
    """Tell the storage; False where it was given up as lost, and counts elsewhere."""
    optuna = _optuna()
    try:
        if found.fitness is None:
            trial.set_user_attr(_ERROR, found.error or "it could not be made")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr(_PROBABILITY, found.probability)
            study.tell(trial, found.fitness)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
        return False
    return True


def _tell_failed(study: Any, number: int) -> None:
    """Close a trial that leads to nothing; one that has just been closed is left as it is."""
    study.tell(number, state=_optuna().trial.TrialState.FAIL, skip_if_finished=True)


@contextmanager
def _beating(trial: Any, seconds: float) -> Iterator[None]:
    """Signs of life while a candidate is tried, from another thread; they end once the storage refuses them."""
    optuna, over = _optuna(), threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(seconds):
            count += 1
            try:
                trial.set_user_attr(_BEAT, count)
            except (optuna.exceptions.UpdateFinishedTrialError, optuna.exceptions.StorageInternalError):
                return  # given up as lost, or the storage is gone: the telling will say so

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _storage(optuna: Any, place: str, make: bool) -> Any:
    if "://" not in place:
        path = Path(place)
        if not make and not path.is_file():
            raise UsageError(
                f"there is no journal `{place}`",
                code="MC495",
                hint="name the file that the recipe's `study` names, as this machine sees it",
            )
        return _journal(optuna, path)
    try:
        return optuna.storages.RDBStorage(place)
    except ImportError as error:
        raise BackendMissingError(
            f"the database at `{_without_password(place)}` needs {error.name or 'a driver'}, which is not installed",
            code="MC622",
            hint="for PostgreSQL: pip install 'mcomp[search]' psycopg2-binary; a journal file needs nothing",
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith(("sqlalchemy", "optuna")):
            raise
        raise PreflightError(
            f"the storage `{_without_password(place)}` cannot be reached",
            code="MC494",
            why=str(error).partition("\n")[0],
            hint="start the database, or use a journal file on a shared folder: `study: shared/search.journal`",
        ) from error


def _journal(optuna: Any, path: Path) -> Any:
    """The storage in a file, which is made if need be; one that holds anything else is left as it is."""
    if not path.parent.is_dir():
        raise PreflightError(
            f"the folder `{path.parent}` of the journal `{path.name}` is not there",
            code="MC494",
            hint="make it, or mount the folder that the machines share",
        )
    try:
        if path.exists():
            _check_journal(path)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    except OSError as error:
        raise PreflightError(
            f"the journal `{path}` cannot be read or written",
            code="MC494",
            why=error.strerror or str(error),
            hint="name a file that this account may write, in a folder where it may make others",
        ) from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # records that Optuna cannot replay
        raise _no_journal(path, f"{type(error).__name__}: {error}") from error


def _check_journal(path: Path) -> None:
    """See that every line is a record. Optuna itself would write behind a last one that is none."""
    for _ in range(5):
        text = path.read_bytes()
        if not text or text.endswith(b"\n"):
            break
        time.sleep(_POLL)  # another may be writing it
    else:
        raise _no_journal(path, "its last line is unfinished")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not {"op_code", "worker_id"} <= record.keys():
            raise _no_journal(path, f"its line {number} is no record of one")


def _no_journal(path: Path, why: str) -> UsageError:
    return UsageError(
        f"`{path}` is no journal of a study",
        code="MC495",
        why=why,
        hint="name the journal of a search, or for a new one a file that is not there yet; this one is left as it is",
    )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}://{account.partition(':')[0]}{at}{host}"


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna tells the terminal of every study that it opens; we tell what matters ourselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise BackendMissingError(
            f"a search on several machines needs {error.name or 'optuna'}, which is not installed",
            code="MC622",
            hint="pip install 'mcomp[search]'",
        ) from error
