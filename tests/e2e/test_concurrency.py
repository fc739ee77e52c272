"""Several processes on one store: each stage is computed once, and nobody is disturbed by a collection."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mcomp.store import Store
from mcomp.store.garbage import Policy
from tests.e2e.nursery import Nursery

RECIPE = """\
version: 1
name: together
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 64}
stages:
  - train: {epochs: 2}
  - prune: {ratio: 0.3}
  - quantize: {epochs: 1, calibration_samples: 64}
  - bn_fuse
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "together.yaml"
    path.write_text(RECIPE)
    return path


def stages_of(answers: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    assert [one["code"] for one in answers] == [0] * len(answers), answers
    return [json.loads(one["out"])["stages"] for one in answers]


@pytest.mark.parametrize("copies", [2, 4])
def test_each_stage_is_computed_once_over_all_processes(
    copies: int, nursery: Nursery, recipe: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    nursery.start("apply", str(recipe), "--store", str(store), "--json", copies=copies)
    runs = stages_of(nursery.finish())
    for same in zip(*runs, strict=True):
        assert sorted(stage["status"] for stage in same) == ["hit"] * (copies - 1) + ["run"], same
        assert len({stage["artifact"] for stage in same}) == 1
        assert len({stage["key"] for stage in same}) == 1
    assert len({run.id for run in Store(store).runs()}) == copies
    assert Store(store).check().ok


def test_collections_and_verifications_disturb_no_run(nursery: Nursery, recipe: Path, tmp_path: Path) -> None:
    """Whoever begins after a collection may have to compute anew; whoever uses something keeps it."""
    store = tmp_path / "store"
    words = ("apply", str(recipe), "--store", str(store), "--json")
    whole = stages_of([nursery.run(*words)])[0]
    nursery.start(*words, copies=2)
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: answers.extend(nursery.finish()))
    waiting.start()
    rounds = 0
    while waiting.is_alive() or rounds == 0:
        care = Store(store)
        care.collect(Policy(older_than=0.0, keep_runs=0))
        assert care.check().ok
        rounds += 1
        time.sleep(0.02)  # leave the processor to the runs
    waiting.join()
    for stages in stages_of(answers):
        assert [stage["artifact"] for stage in stages] == [stage["artifact"] for stage in whole]
