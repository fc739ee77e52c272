"""A pool of processes answers every task once, whichever of them die, and leaves none behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import StageError
from mcomp.search import local_workers
from mcomp.search.local_workers import LocalWorkers
from mcomp.search.study import Task, Trial
from tests.unit.search import worker_script
from tests.unit.search.worker_script import ANSWER, DIE, DIE_ONCE, DIE_TWICE, FAIL

LOG: list[str] = []


def pool(folder: Path, count: int = 2, mode: str = "plain") -> LocalWorkers:
    LOG.clear()
    command = [sys.executable, "-S", "-E", worker_script.__file__, str(folder), mode]
    return LocalWorkers(command, count, folder, log=LOG.append)


def tasks(*whats: int, seconds: float = 0.0) -> list[Task]:
    return [Task(number, "proxy", (what, seconds)) for number, what in enumerate(whats)]


def never() -> bool:
    return False


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where every worker leaves its number; none of them outlives the test."""
    yield tmp_path
    begun = [int(one.name.removeprefix("pid-")) for one in tmp_path.glob("pid-*")]
    assert not [pid for pid in begun if lives(pid)]


def by_number(found: list[Trial]) -> dict[int, float | None]:
    assert len({trial.number for trial in found}) == len(found)
    return {trial.number: trial.fitness for trial in found}


def test_answers_come_as_they_are_made_each_once(folder: Path) -> None:
    given = [Task(0, "proxy", (ANSWER, 0.6)), *(Task(number, "full", (ANSWER, 0.0)) for number in range(1, 5))]
    with pool(folder) as workers:
        found = list(workers.results(given, never))
        assert len(workers.pids) == 2
    assert found[-1].number == 0
    assert by_number(found) == {number: 50.0 + number for number in range(5)}
    assert {trial.probability for trial in found} == {40.5}
    assert [(trial.level, trial.genome) for trial in sorted(found, key=lambda one: one.number)] == [
        (task.level, task.genome) for task in given
    ]


def test_a_pool_takes_one_generation_after_another(folder: Path) -> None:
    with pool(folder) as workers:
        for _ in range(3):
            assert by_number(list(workers.results(tasks(ANSWER, FAIL, ANSWER), never))) == {0: 50.0, 1: None, 2: 52.0}
        assert list(workers.results([], never)) == []
        assert len(list(folder.glob("pid-*"))) <= 2  # and no other for the second generation


def test_a_candidate_that_cannot_be_made_says_why(folder: Path) -> None:
    with pool(folder, count=1) as workers:
        (found,) = workers.results(tasks(FAIL), never)
    assert (found.fitness, found.error) == (None, "no such width")


@pytest.mark.parametrize(("what", "deaths"), [(DIE_ONCE, 1), (DIE_TWICE, 2)])
def test_a_worker_killed_at_a_task_is_replaced_and_another_tries_it(folder: Path, what: int, deaths: int) -> None:
    with pool(folder) as workers:
        first = set(workers.pids)
        found = list(workers.results(tasks(ANSWER, what, ANSWER), never))
        assert len(workers.pids) == 2
        assert len(first - set(workers.pids)) >= 1
    assert by_number(found) == {0: 50.0, 1: 51.0, 2: 52.0}
    assert ["a worker ended with -9 at candidate 1: another tries it"] * deaths == LOG


def test_a_task_that_ends_three_workers_is_a_trial_that_failed(folder: Path) -> None:
    with pool(folder) as workers:
        found = list(workers.results(tasks(ANSWER, DIE, ANSWER), never))
    assert by_number(found) == {0: 50.0, 1: None, 2: 52.0}
    (failed,) = (trial for trial in found if trial.fitness is None)
    assert failed.error == "it ended 3 workers, the last with -9"
    assert (folder / "deaths-1").read_text() == "xxx"


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(folder: Path) -> None:
    with pool(folder, count=1) as workers:
        list(workers.results(tasks(ANSWER), never))
        (pid,) = workers.pids
        os.kill(pid, 9)
        assert by_number(list(workers.results(tasks(ANSWER, ANSWER), never))) == {0: 50.0, 1: 51.0}
        assert pid not in workers.pids


def test_workers_that_never_get_ready_end_the_search_with_the_last_line_of_their_log(folder: Path) -> None:
    with pytest.raises(StageError) as caught, pool(folder, mode="never") as workers:
        list(workers.results(tasks(ANSWER), never))
    assert caught.value.code == "MC490"
    assert "ended with 3" in caught.value.message
    assert caught.value.why == "the network is nowhere to be found"
    named = next(word for word in caught.value.hint.replace(";", " ").split() if word.endswith(".log"))
    assert "importing" in Path(named).read_text()


@pytest.mark.parametrize("mode", ["plain", "deaf", "slow"])
def test_no_process_is_left_after_an_error_whatever_it_is_at(
    folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_workers, "_FAREWELL", 0.3)
    workers = pool(folder, mode=mode)
    with pytest.raises(ZeroDivisionError), workers:  # noqa: PT012
        seen: Any = workers.results(tasks(ANSWER, ANSWER, ANSWER, seconds=0.05), never)
        if mode != "slow":
            next(seen)
        begun = list(workers.pids)
        raise ZeroDivisionError
    assert begun
    assert not [pid for pid in begun if lives(pid)]
    assert workers.pids == []


def test_a_stop_leaves_what_is_running_and_no_process(folder: Path) -> None:
    found: list[Trial] = []
    with pool(folder) as workers:
        for trial in workers.results(
            [Task(0, "proxy", (ANSWER, 0.0)), Task(1, "proxy", (ANSWER, 60.0))], lambda: found
        ):
            found.append(trial)
        begun = list(workers.pids)
    assert [trial.number for trial in found] == [0]
    assert not [pid for pid in begun if lives(pid)]


def test_an_answer_to_what_an_earlier_stop_left_is_not_taken_for_one_of_now(folder: Path) -> None:
    with pool(folder, count=1) as workers:
        while not workers._workers[0].ready:
            list(workers.results(tasks(ANSWER), never))
        stop = iter([False, False, True])
        assert list(workers.results([Task(9, "proxy", (ANSWER, 0.5))], lambda: next(stop))) == []
        assert by_number(list(workers.results(tasks(ANSWER), never))) == {0: 50.0}


def test_workers_that_are_not_ready_when_they_are_no_longer_needed_are_not_waited_for(folder: Path) -> None:
    with pool(folder, mode="slow") as workers:
        processes = [worker.process for worker in workers._workers.values()]
    assert [process.returncode for process in processes] == [-15, -15]


def test_a_command_that_is_not_there_leaves_nothing(folder: Path) -> None:
    with pytest.raises(FileNotFoundError), LocalWorkers([str(folder / "nowhere")], 2, folder):
        pass
