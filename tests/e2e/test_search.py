"""A search that is killed, spread over processes, or joined from elsewhere finds what an undisturbed one finds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcomp.store import Store
from tests.conftest import ROOT
from tests.e2e.nursery import Nursery
from tests.e2e.postgres import postgres

RECIPE = """\
version: 1
name: spread
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 64, limit: 600}
stages:
  - train: {epochs: 1}
  - search:
      candidates: CANDIDATES
      population: 6
      w_bits: [2, 8]
      keep: [0.3, 1.0]
      budgets: {avg_bit_weights: 4, macs: 0.6}
      norm_batches: 4
      images: 40
      MORE
"""
PLACES = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(PLACES), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def written(folder: Path, *, candidates: int = 14, more: str = "workers: 1") -> Path:
    path = folder / "spread.yaml"
    path.write_text(RECIPE.replace("CANDIDATES", str(candidates)).replace("MORE", more))
    return path


def outcome(out: str) -> tuple[str, list[dict[str, Any]]]:
    """Digest of the artifact that the search made, and its trials."""
    stage = json.loads(out)["stages"][-1]
    lines = Path(stage["files"]["trials.jsonl"]).read_text().splitlines()
    return stage["artifact"], [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the training is done, and nothing else."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = written(folder)
    text = recipe.read_text()
    recipe.write_text(text[: text.index("  - search")])
    done = nursery.run("apply", str(recipe), "--store", str(folder / "store"), "--json")
    assert done["code"] == 0, done["out"]
    return folder / "store"


@pytest.fixture(scope="module")
def whole(
    nursery: Nursery, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]], float]:
    """What the search finds that nobody disturbs, in this process, and how long that takes."""
    folder = tmp_path_factory.mktemp("whole")
    done = nursery.run("apply", str(written(folder)), "--store", copied(trained, folder), "--json")
    assert done["code"] == 0, done["out"]
    artifact, trials = outcome(done["out"])
    assert {trial["level"] for trial in trials} == {"proxy", "full"}
    assert sum(trial["level"] == "proxy" for trial in trials) == 14
    return artifact, trials, done["seconds"]


def copied(store: Path, folder: Path) -> str:
    shutil.copytree(store, folder / "store", symlinks=True)
    return str(folder / "store")


def test_a_search_killed_again_and_again_finds_what_an_undisturbed_one_finds(
    nursery: Nursery, trained: Path, whole: tuple[str, list[dict[str, Any]], float], tmp_path: Path
) -> None:
    artifact, trials, seconds = whole
    words = ("apply", str(written(tmp_path)), "--store", copied(trained, tmp_path), "--json")
    killed = sum(nursery.run(*words, kill_after=seconds * part)["code"] == -9 for part in (0.5, 0.6, 0.4, 0.7))
    done = nursery.run(*words)
    assert done["code"] == 0, done["out"]
    assert killed
    assert outcome(done["out"]) == (artifact, trials)
    assert Store(tmp_path / "store").check().ok


def test_two_workers_make_the_same_trials_as_one(
    nursery: Nursery, trained: Path, whole: tuple[str, list[dict[str, Any]], float], tmp_path: Path
) -> None:
    recipe = written(tmp_path, more="workers: 2")
    done = nursery.run("apply", str(recipe), "--store", copied(trained, tmp_path), "--json")
    assert done["code"] == 0, done["out"]
    assert outcome(done["out"]) == whole[:2]


@contextmanager
def searching(recipe: Path, store: str) -> Iterator[subprocess.Popen[str]]:
    """`mcomp apply` in a process of its own."""
    command = [sys.executable, "-m", "mcomp", "apply", str(recipe), "--store", store, "--json"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def joining(address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mcomp", "search", "--join", address]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def opened(address: str, within: float = 60) -> Any:
    """The study, once the search has begun it."""
    from mcomp.errors import McompError
    from mcomp.search.shared_study import open_study

    end = time.monotonic() + within
    while True:
        try:
            found = open_study(address, make=False)
            if found.setup and (Path(found.setup) / "setup.json").is_file() and found.study.get_trials():
                return found
        except McompError:
            pass  # not yet begun
        assert time.monotonic() < end, f"nobody began {address}"
        time.sleep(0.2)


def killed_at_work(process: subprocess.Popen[str], study: Any) -> int:
    """Kill a process that has taken a trial and not yet told of it; the number of that trial."""
    while True:
        assert process.poll() is None, process.communicate()
        running = [trial.number for trial in study.get_trials() if trial.state.name == "RUNNING"]
        if running:
            process.send_signal(signal.SIGSTOP)
            still = [trial.number for trial in study.get_trials() if trial.state.name == "RUNNING"]
            if still:
                process.kill()
                process.communicate()
                return int(still[0])
            process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def shared_by_two_after_one_was_killed(address: str, trained: Path, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """A search that leaves all to others: one takes a candidate and dies, two share the rest."""
    recipe = written(
        folder, more=f"{{workers: 0, study: '{address}', lost_after: 2}}".strip("{}").replace(", ", "\n      ")
    )
    with searching(recipe, copied(trained, folder)) as search:
        shared = opened(address)
        lost = killed_at_work(joining(address), shared.study)
        others = [joining(address) for _ in range(2)]
        out, errors = search.communicate(timeout=240)
        assert search.returncode == 0, errors
        said = [each.communicate(timeout=60) for each in others]
    assert [each.returncode for each in others] == [0, 0], said
    counted = [int(re.findall(r"(\d+) of them counted", text)[0]) for text, _ in said]
    artifact, trials = outcome(out)
    assert min(counted) > 0
    assert sum(counted) >= len(trials) - 20  # the one that was killed may have told of some before
    by_state = {trial.number: trial for trial in shared.study.get_trials()}
    assert by_state[lost].state.name == "FAIL"
    held = by_state[lost].user_attrs["mcomp:task"]
    again = [each for each in by_state.values() if each.user_attrs.get("mcomp:task") == held and each.number != lost]
    assert [each.state.name for each in again] == ["COMPLETE"]
    told = [
        (t.user_attrs["mcomp:task"]["number"], t.user_attrs["mcomp:task"]["level"])
        for t in by_state.values()
        if t.state.name == "COMPLETE"
    ]
    assert sorted(told) == sorted((trial["number"], trial["level"]) for trial in trials)  # each counted once
    return artifact, trials


def test_processes_that_join_over_a_journal_share_the_work_and_one_killed_loses_nothing(
    trained: Path, whole: tuple[str, list[dict[str, Any]], float], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "shared").mkdir()
    address = str(tmp_path / "shared" / "search.journal#spread")
    assert shared_by_two_after_one_was_killed(address, trained, tmp_path) == whole[:2]


def test_processes_that_join_over_postgresql_share_the_work_and_one_killed_loses_nothing(
    trained: Path, whole: tuple[str, list[dict[str, Any]], float], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("psycopg2")
    with postgres() as url:
        assert shared_by_two_after_one_was_killed(url, trained, tmp_path) == whole[:2]


@pytest.mark.slow
def test_a_hundred_candidates_are_the_same_however_they_are_tried(
    nursery: Nursery, trained: Path, tmp_path: Path
) -> None:
    found, seconds = [], 60.0
    for name, more in {"one": "workers: 1", "two": "workers: 2", "killed": "workers: 1"}.items():
        folder = tmp_path / name
        folder.mkdir()
        words = ("apply", str(written(folder, candidates=100, more=more)), "--store", copied(trained, folder), "--json")
        if name == "killed":
            assert nursery.run(*words, kill_after=seconds / 2)["code"] == -9
        done = nursery.run(*words)
        assert done["code"] == 0, done["out"]
        seconds = done["seconds"]
        found.append(outcome(done["out"]))
    assert found[0] == found[1] == found[2]
    assert sum(trial["level"] == "proxy" for trial in found[0][1]) == 100


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_trials(
    trained: Path, whole: tuple[str, list[dict[str, Any]], float], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with searching(written(tmp_path, more="ray: local"), copied(trained, tmp_path)) as search:
        out, errors = search.communicate(timeout=240)
    assert search.returncode == 0, errors
    assert outcome(out) == whole[:2]
