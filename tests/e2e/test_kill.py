"""SIGKILL at any moment; the same command then ends with the same bits, and the store is whole all along."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcomp.store import Store
from mcomp.store.snapshot import load_snapshot
from tests.e2e.nursery import Nursery

SEED = 20240617

#: Every stage that trains, and those between them; snapshots inside epochs too.
RECIPE = """\
version: 1
name: kill
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 64}
vars: {often: {epochs: 1, steps: 5}}
stages:
  - train: {epochs: 3, checkpoint_every: "${often}"}
  - sparse_train: {epochs: 3, checkpoint_every: "${often}"}
  - prune: {ratio: 0.3}
  - finetune: {epochs: 2, optimizer: adam, lr: 0.003, checkpoint_every: {seconds: 0.02}}
  - quantize: {epochs: 3, calibration_samples: 64, checkpoint_every: "${often}"}
  - bn_fuse
  - onnx_int8: {}
"""


@dataclass(frozen=True)
class Whole:
    """The run that nobody interrupts."""

    artifacts: list[str]
    seconds: float
    steps: int


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill") / "kill.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(nursery: Nursery, recipe: Path) -> Whole:
    done = nursery.run("apply", str(recipe), "--store", str(recipe.parent / "whole"), "--json")
    assert done["code"] == 0, done["out"]
    return Whole(artifacts(done["out"]), done["seconds"], done["steps"])


def artifacts(out: str) -> list[str]:
    return [stage["artifact"] for stage in json.loads(out)["stages"]]


def survive(nursery: Nursery, recipe: Path, store: Path, lives: list[dict[str, float]], whole: Whole) -> int:
    """Kill as told, one life after another, then let it end; returns how many lives ended by SIGKILL."""
    killed = 0
    words = ("apply", str(recipe), "--store", str(store), "--json")
    for life in lives:
        done = nursery.run(*words, **life)  # type: ignore[arg-type]
        assert done["code"] in (0, -9), (life, done["out"])
        killed += done["code"] == -9
        found = Store(store).check()
        assert found.ok, (life, found.as_dict())
    done = nursery.run(*words)
    assert done["code"] == 0, done["out"]
    assert artifacts(done["out"]) == whole.artifacts, lives
    Store(store).collect()  # a snapshot whose process died between its stage's record and its removal
    checked = Store(store).check().checked
    assert {name: checked[name] for name in ("objects", "actions", "snapshots")} == {
        "objects": 7,
        "actions": 7,
        "snapshots": 0,
    }
    return killed


def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    nursery: Nursery, recipe: Path, whole: Whole, tmp_path: Path
) -> None:
    """At random moments, and inside its writes; each life goes on from where the one before it came to."""
    chance = random.Random(SEED)
    lives: list[dict[str, float]] = []
    for _ in range(2):
        lives.append({"die_at": chance.randrange(whole.steps // 8, whole.steps // 3)})
        lives.append({"kill_after": chance.uniform(0.1, 0.4) * whole.seconds})
    killed = survive(nursery, recipe, tmp_path / "store", lives, whole)
    assert killed >= 1, f"seed {SEED}: no life ended early"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["kill_after", "die_at"])
def test_no_moment_of_death_changes_a_bit(
    nursery: Nursery, recipe: Path, whole: Whole, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(f"{SEED}{way}")
    killed, number, spread = 0, 0, [0] * 10
    while killed < 30:
        lives = []
        for _ in range(chance.choice([1, 1, 2, 4])):
            share = chance.random()
            spread[int(10 * share)] += 1
            lives.append({way: share * whole.seconds if way == "kill_after" else 1 + int(share * whole.steps)})
        killed += survive(nursery, recipe, tmp_path / f"store{number}", lives, whole)
        number += 1
    with capsys.disabled():
        print(f"\n{way}: {killed} kills over {number} runs (seed {SEED}), spread over tenths of a run: {spread}")


BEFORE = """\
version: 1
name: learned
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 64}
stages:
  - train: {epochs: 1}
"""
#: Steps that are learned, by an optimiser with moments of its own: all of it has to come back.
LEARNED = f"""{BEFORE}\
  - quantize: {{scheme: lsq, w_bits: 3, a_bits: 3, optimizer: adam, lr: 0.002, epochs: 2, calibration_samples: 64,
               checkpoint_every: {{epochs: 1, steps: 5}}}}
"""


def steps_into_an_epoch(store: Path) -> int:
    """How many steps of its epoch the only training under way had done at its last snapshot; 0 between two epochs."""
    (folder,) = (store / "work").iterdir()
    held = load_snapshot(folder)
    return 0 if held is None else int(held["step"])


@pytest.mark.slow
def test_learned_steps_come_back_bit_for_bit_from_the_middle_of_an_epoch(nursery: Nursery, tmp_path: Path) -> None:
    recipe = tmp_path / "learned.yaml"
    recipe.write_text(LEARNED)
    whole = nursery.run("apply", str(recipe), "--store", str(tmp_path / "whole"), "--json")
    assert whole["code"] == 0, whole["out"]
    before, store = tmp_path / "before.yaml", tmp_path / "part"
    before.write_text(BEFORE)
    words = ("apply", str(recipe), "--store", str(store), "--json")
    trained = nursery.run("apply", str(before), *words[2:])
    assert trained["code"] == 0, trained["out"]
    left = whole["steps"] - trained["steps"]
    killed = nursery.run(*words, die_at=3 * left // 8)
    assert killed["code"] == -9
    assert steps_into_an_epoch(store) % 5 == 0 < steps_into_an_epoch(store)
    resumed = nursery.run(*words)
    assert resumed["code"] == 0, resumed["out"]
    assert artifacts(resumed["out"]) == artifacts(whole["out"])
