"""Whoever joins shares the tasks; each counts once, and what the dead held is tried elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import PreflightError, UsageError
from mcomp.search import shared_study
from mcomp.search.shared_study import JoinedWorkers, SharedStudy, join, open_study
from mcomp.search.study import Task, Trial

optuna = pytest.importorskip("optuna")

TASKS = [Task(number, "proxy", (number, 0.1 + number / 3)) for number in range(6)]


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_study, "_POLL", 0.02)


@pytest.fixture
def address(tmp_path: Path) -> str:
    (tmp_path / "shared").mkdir()
    return str(tmp_path / "shared" / "search.journal")


@pytest.fixture
def shared(address: str, tmp_path: Path) -> SharedStudy:
    found = open_study(address, make=True)
    found.claim("mine", tmp_path / "setup", 0.5)
    return found


def tried(task: Task) -> Trial:
    if task.number == 4:
        return task.trial(None, error="no such width")
    return task.trial(50.0 + task.number, 40.5)


WANTED = {task.number: None if task.number == 4 else 50.0 + task.number for task in TASKS}


@contextmanager
def joiners(address: str, *evaluates: Callable[[Task], Trial]) -> Any:
    """Threads, each with a storage of its own; yields what each of them tried."""
    looks: list[list[tuple[Trial, bool]]] = [[] for _ in evaluates]

    def work(place: int) -> None:
        join(
            open_study(address, make=False),
            evaluates[place],
            wait=20,
            on_trial=lambda trial, counted: looks[place].append((trial, counted)),
        )

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(evaluates))]
    for thread in threads:
        thread.start()
    try:
        yield looks
    finally:
        open_study(address, make=False).finish()
        for thread in threads:
            thread.join()


def results(shared: SharedStudy, tasks: list[Task] = TASKS, **options: Any) -> list[Trial]:
    found = list(JoinedWorkers(shared, **{"lost_after": 0.5, **options}).results(tasks, lambda: False))
    assert len({(trial.number, trial.level) for trial in found}) == len(found)
    return found


def by_number(found: list[Trial]) -> dict[int, float | None]:
    return {trial.number: trial.fitness for trial in found}


def test_two_who_join_share_the_tasks_and_each_counts_once(shared: SharedStudy, address: str) -> None:
    both = threading.Barrier(2)

    def meeting(task: Task) -> Trial:
        if task.number < 2:
            both.wait(10)  # neither can have all
        return tried(task)

    with joiners(address, meeting, meeting) as looks:
        found = results(shared)
    assert by_number(found) == WANTED
    assert {trial.probability for trial in found} == {40.5, None}
    assert {trial.number: (trial.genome, trial.error) for trial in found} == {
        task.number: (task.genome, "no such width" if task.number == 4 else "") for task in TASKS
    }
    assert all(looks)
    assert sorted(trial.number for one in looks for trial, _ in one) == list(range(6))
    assert all(counted for one in looks for _, counted in one)


def test_what_someone_took_and_never_answers_is_tried_by_another(shared: SharedStudy, address: str) -> None:
    log: list[str] = []
    waiting = JoinedWorkers(shared, 0.5, log.append).results(TASKS[:2], lambda: False)
    found: list[Trial] = []
    thread = threading.Thread(target=lambda: found.extend(waiting))
    thread.start()
    taken = None
    while taken is None:
        taken = shared_study._take(open_study(address, make=False).study)
    dead, task = taken
    with joiners(address, tried) as looks:
        thread.join()
    assert by_number(found) == {0: 50.0, 1: 51.0}
    assert log == [f"whoever had candidate {task.number} is gone: another tries it"]
    assert sorted(trial.number for trial, _ in looks[0]) == [0, 1]
    # and what comes late does not count
    late = open_study(address, make=False).study
    assert not shared_study._told(late, dead, task.trial(99.0, 99.0))
    assert not shared_study._told(late, dead, task.trial(None, error="too late"))
    assert by_number(results(shared, TASKS[:2])) == {0: 50.0, 1: 51.0}


def test_whoever_gives_signs_of_life_may_take_its_time(shared: SharedStudy, address: str) -> None:
    def slow(task: Task) -> Trial:
        time.sleep(1.2)
        return tried(task)

    log: list[str] = []
    with joiners(address, slow) as looks:
        found = results(shared, TASKS[:1], log=log.append)
    assert by_number(found) == {0: 50.0}
    assert log == []
    assert [counted for _, counted in looks[0]] == [True]


def test_a_task_that_three_took_and_none_answered_is_a_trial_that_failed(shared: SharedStudy, address: str) -> None:
    found: list[Trial] = []
    thread = threading.Thread(target=lambda: found.extend(results(shared, TASKS[:1], lost_after=0.1)))
    thread.start()
    taking = open_study(address, make=False)
    while thread.is_alive():
        shared_study._take(taking.study)
        time.sleep(0.02)
    thread.join()
    (trial,) = found
    assert (trial.number, trial.fitness) == (0, None)
    assert trial.error == "3 processes that had it are gone"


def test_signs_of_life_come_as_often_as_the_search_needs_them(shared: SharedStudy, tmp_path: Path) -> None:
    assert shared.beat == 0.125
    shared.claim("mine", tmp_path, 600)
    assert shared.beat == shared_study.BEAT


def test_a_search_that_goes_on_takes_what_was_found_before(shared: SharedStudy, address: str, tmp_path: Path) -> None:
    with joiners(address, tried):
        assert by_number(results(shared)) == WANTED
    again = open_study(address, make=True)
    again.claim("mine", tmp_path / "elsewhere")
    assert not again.done
    assert again.setup == str(tmp_path / "elsewhere")
    before = len(again.study.get_trials())
    assert by_number(results(again)) == WANTED  # nobody is there to try anything
    assert len(again.study.get_trials()) == before
    other = [Task(0, "proxy", (9, 9.5)), Task(0, "full", TASKS[0].genome)]
    with joiners(address, lambda task: task.trial(1.0, 1.0)):
        assert {(one.level, one.fitness) for one in results(again, other)} == {("proxy", 1.0), ("full", 1.0)}


def test_a_stop_ends_the_waiting(shared: SharedStudy) -> None:
    asked = iter([False, False, True])
    assert list(JoinedWorkers(shared).results(TASKS, lambda: next(asked))) == []
    waiting = [one.state.name for one in shared.study.get_trials()]
    assert waiting == ["WAITING"] * len(TASKS)  # published once each


def test_own_processes_are_looked_after_while_waiting(shared: SharedStudy) -> None:
    looked: list[int] = []
    workers = JoinedWorkers(shared, tend=lambda: looked.append(1))
    list(workers.results(TASKS, lambda: len(looked) == 3))
    assert len(looked) == 3


def test_a_study_of_another_search_is_refused(shared: SharedStudy, address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_study(address, make=True).claim("theirs", tmp_path)
    assert caught.value.code == "MC493"
    assert "#NAME" in caught.value.hint
    second = open_study(f"{address}#second", make=True)
    second.claim("theirs", tmp_path)
    assert (shared.fingerprint, second.fingerprint) == ("mine", "theirs")


def test_done_sends_everyone_home(shared: SharedStudy, address: str) -> None:
    shared.finish()
    assert open_study(address, make=False).done
    assert join(open_study(address, make=False), tried) == 0


def test_whoever_waits_in_vain_goes_home(shared: SharedStudy) -> None:
    assert join(shared, tried, wait=0.05) == 0


def test_whoever_is_stopped_goes_home(shared: SharedStudy) -> None:
    assert join(shared, tried, should_stop=lambda: True) == 0


def test_a_task_that_another_took_first_is_left_to_it(shared: SharedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw it waiting, and the storage gave it to one."""
    list(JoinedWorkers(shared).results(TASKS[:1], iter([False, True]).__next__))
    look = shared.study.get_trials
    waiting = look(states=(optuna.trial.TrialState.WAITING,))
    assert shared_study._take(shared.study) is not None
    monkeypatch.setattr(shared.study, "get_trials", lambda *_, **__: waiting)
    assert shared_study._take(shared.study) is None
    monkeypatch.undo()
    assert [one.state.name for one in look()] == ["RUNNING", "FAIL"]


def test_a_journal_that_is_not_there_and_a_study_that_is_not_in_it_are_refused(
    shared: SharedStudy, address: str, tmp_path: Path
) -> None:
    for wrong, word in (
        (str(tmp_path / "other.journal"), "no journal"),
        (f"{address}#third", "holds no study `third`"),
    ):
        with pytest.raises(UsageError, match=word) as caught:
            open_study(wrong, make=False)
        assert caught.value.code == "MC495"
    assert not (tmp_path / "other.journal").exists()
    assert "`mcomp`" in caught.value.why


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b"[1]\n", b"{}\n", b"\xff\x00\n", b'{"op_code": 99, "worker_id": ""}\n', b"\n"]
)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, make: bool) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is no journal of a study") as caught:
        open_study(str(file), make=make)
    assert caught.value.code == "MC495"
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_journal_with_a_damaged_line_is_refused(shared: SharedStudy, address: str, place: int) -> None:
    lines = Path(address).read_bytes().splitlines()
    lines[place] = lines[place][:-3]
    Path(address).write_bytes(damaged := b"\n".join(lines) + b"\n")
    with pytest.raises(UsageError, match="is no journal of a study") as caught:
        open_study(address, make=True)
    assert (caught.value.code, Path(address).read_bytes()) == ("MC495", damaged)


def test_a_journal_that_another_just_writes_is_waited_for(shared: SharedStudy, address: str) -> None:
    whole = Path(address).read_bytes()
    Path(address).write_bytes(whole[:-4])
    writer = threading.Timer(0.03, lambda: Path(address).write_bytes(whole))
    writer.start()
    assert open_study(address, make=False).fingerprint == "mine"
    writer.join()


def test_an_empty_file_is_a_journal_to_be(tmp_path: Path) -> None:
    (tmp_path / "new.journal").touch()
    assert open_study(str(tmp_path / "new.journal"), make=True).fingerprint == ""


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="is not there") as caught:
        open_study(str(tmp_path / "mnt" / "search.journal"), make=True)
    assert caught.value.code == "MC494"
    assert "mount" in caught.value.hint
    assert not (tmp_path / "mnt").exists()


def test_a_folder_in_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="cannot be read") as caught:
        open_study(str(tmp_path), make=True)
    assert caught.value.code == "MC494"


def test_a_database_that_is_not_there_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        open_study(f"sqlite:////{tmp_path}/no/such/folder/search.db", make=True)
    assert caught.value.code == "MC494"
    assert shared_study._without_password("postgresql://me:secret@db:5432/x") == "postgresql://me@db:5432/x"
    assert shared_study._without_password("sqlite:///search.db") == "sqlite:///search.db"
