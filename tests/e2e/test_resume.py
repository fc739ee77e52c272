"""Stop a run anywhere; the same command ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, run_mcomp

RECIPE = """\
version: 1
name: resume
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 16}
stages:
  - train: {epochs: 16}
  - prune: {ratio: 0.3, importance: l1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "resume.yaml"
    path.write_text(RECIPE)
    return path


def start(recipe: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "mcomp", "apply", str(recipe), "--store", str(store)]
    return subprocess.Popen(
        [*command, "--log-format", "json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "epoch" and event["epoch"] >= epoch:
            return
    raise AssertionError("the run ended before that epoch")


def artifacts(recipe: Path, store: Path) -> tuple[list[str], list[str]]:
    done = run_mcomp("apply", str(recipe), "--store", str(store), "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    return [stage["artifact"] for stage in stages], [stage["status"] for stage in stages]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "resume.yaml"
    path.write_text(RECIPE)
    found, statuses = artifacts(path, folder / "store")
    assert statuses == ["run", "run"]
    return found


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),  # the same way as SIGINT
        (signal.SIGKILL, -9),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    number: int, code: int, recipe: Path, tmp_path: Path, uninterrupted: list[str]
) -> None:
    store = tmp_path / "store"
    with start(recipe, store) as process:
        wait_for_epoch(process, 2)
        time.sleep(0.05)  # somewhere inside the third epoch
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    if number != signal.SIGKILL:
        assert "go on with: mcomp apply" in err
    found, statuses = artifacts(recipe, store)
    assert statuses == ["resumed", "run"]
    assert found == uninterrupted


def test_a_second_process_waits_and_computes_nothing_twice(tmp_path: Path) -> None:
    recipe, store = tmp_path / "long.yaml", tmp_path / "store"
    recipe.write_text(RECIPE.replace("epochs: 16", "epochs: 45"))  # long enough for two more processes to start
    with start(recipe, store) as first, ThreadPoolExecutor(1) as reader:
        wait_for_epoch(first, 1)
        finished = reader.submit(first.communicate, timeout=400)  # a pipe that nobody reads fills up and stops it
        refused = run_mcomp("apply", str(recipe), "--store", str(store), "--no-wait")
        found, statuses = artifacts(recipe, store)
        finished.result()
    assert refused.returncode == 8
    assert first.returncode == 0
    assert statuses[0] == "hit"
    assert (found, ["hit", "hit"]) == artifacts(recipe, store)
