"""What trackers share: their specs, their x axis, and how they end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import BackendMissingError, UsageError
from mcomp.report import trackers as room
from mcomp.report.trackers import trackers
from mcomp.report.trackers.base import EpochAxis, TrackedRun, Tracker, numbers, plain, required
from mcomp.report.trackers.parameters import flat_parameters
from tests.unit.report.run_events import LOCK, run_events


class Recorder(Tracker):
    """Keeps what it is told, and fails at the ``fail_at``-th epoch or later."""

    name = "recorder"
    fail_at = 10**9

    def __init__(self, target: str | None, store_root: Path) -> None:
        super().__init__(target, store_root)
        self.points: list[tuple[str, str, float, int]] = []
        self.told: list[str] = []

    def begin(self, run: TrackedRun) -> None:
        self.told.append(f"begin {run.id}")

    def scalars(self, stage: str, values: Mapping[str, float], epoch: int, time: float) -> None:
        if epoch >= self.fail_at:
            raise ConnectionError("gone")
        self.points += [(stage, name, value, epoch) for name, value in values.items()]

    def outcome(self, outcome: dict[str, Any], time: float) -> None:
        self.told.append(f"outcome {outcome['id']}")

    def end(self, run: TrackedRun, status: str, result: dict[str, Any]) -> None:
        self.told.append(f"end {status}")


def test_the_epochs_of_a_run_follow_one_another(tmp_path: Path) -> None:
    tracker = Recorder(None, tmp_path)
    for event in run_events(tmp_path):
        tracker(event)
    assert [(stage, epoch) for stage, name, _, epoch in tracker.points if name == "epoch_lr"] == [
        ("train", 1),
        ("train", 2),
        ("finetune", 3),
    ]
    assert ("prune", "params", 600.0, 2) in tracker.points
    assert tracker.told[-1] == "end ok"


def test_what_is_no_finite_number_is_no_point(tmp_path: Path) -> None:
    tracker = Recorder(None, tmp_path)
    for event in run_events(tmp_path):
        tracker(event)
    assert [value for stage, name, value, _ in tracker.points if name == "epoch_loss"] == [0.5, 0.25]
    assert numbers({"a": True, "b": "x", "c": float("inf"), "d/e": 1}) == {"d_e": 1.0}


def test_an_axis_only_goes_on() -> None:
    axis = EpochAxis()
    seen = [("a", 1), ("a", 2), ("a", 1), ("b", 3), ("b", 4), ("a", 1)]
    assert [axis.at(stage, epoch) for stage, epoch in seen] == [1, 2, 3, 6, 7, 8]


def test_a_run_that_falls_silent_was_interrupted(tmp_path: Path) -> None:
    tracker = Recorder(None, tmp_path)
    for event in run_events(tmp_path)[:6]:
        tracker(event)
    tracker.close()
    tracker.close()
    assert tracker.told[-1] == "end interrupted"
    assert tracker.told.count("end interrupted") == 1


def test_each_run_of_a_sweep_begins_and_ends(tmp_path: Path) -> None:
    tracker = Recorder(None, tmp_path)
    for name in ("one", "two"):
        for event in run_events(tmp_path, run=name):
            tracker(event)
    assert [line for line in tracker.told if "outcome" not in line] == ["begin one", "end ok", "begin two", "end ok"]


def test_a_failure_is_raised_once_and_the_tracker_then_leaves_the_run_alone(tmp_path: Path) -> None:
    tracker = Recorder(None, tmp_path)
    tracker.fail_at = 2
    events = run_events(tmp_path)
    for event in events[:5]:
        tracker(event)
    with pytest.raises(ConnectionError):
        tracker(events[5])
    for event in events[6:]:
        tracker(event)
    tracker.close()
    assert [line for line in tracker.told if line.startswith("end")] == []


def test_every_tracker_is_closed_even_when_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_HOMES", {"one": (__name__, "Recorder"), "two": (__name__, "Recorder")})
    kept: list[Any] = []
    with suppress(KeyboardInterrupt), trackers(["one", "two=x"], tmp_path) as opened:
        kept += opened
        for event in run_events(tmp_path)[:3]:
            for tracker in opened:
                tracker(event)
        raise KeyboardInterrupt
    assert [tracker.told[-1] for tracker in kept] == ["end interrupted"] * 2
    assert [tracker.target for tracker in kept] == [None, "x"]


def test_a_misspelt_tracker_gets_a_suggestion_before_any_is_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="did you mean `mlflow`") as caught,
        trackers(["tensorboard", "mlfow"], tmp_path),
    ):
        pass
    assert caught.value.code == "MC614"
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_whose_package_is_absent_says_how_to_get_it() -> None:
    with pytest.raises(BackendMissingError, match="pip install mlflow-skinny") as caught:
        required("mcomp_no_such_package.tracking", "mlflow", "mlflow-skinny")
    assert (caught.value.code, caught.value.exit_code) == ("MC613", 7)


def test_parameters_have_the_paths_of_set() -> None:
    found = flat_parameters(LOCK)
    assert found["stages.prune.ratio"] == 0.3
    assert found["data.batch_size"] == 64
    assert found["stages.train.milestones"] == "[1]"
    assert found["stages.prune.gates"] == '[{"metric": "top1", "min": 99}]'


def test_a_name_keeps_only_what_every_tracker_takes() -> None:
    assert plain("top1@5 γ/x") == "top1_5 __x"


def test_trackers_load_neither_torch_nor_a_tracking_package() -> None:
    heavy = "{'torch', 'mlflow', 'wandb', 'tensorboard', 'rich'}"
    code = f"import sys, mcomp.report.trackers; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_parameters_are_read_as_the_recipe_reads_them() -> None:
    found = flat_parameters('lr: 1e-5\nmetadata: {on: off, note: "$${x}", list: ["$${y}"]}\nstages:\n  - train: {}\n')
    assert found == {"lr": 1e-5, "metadata.on": "off", "metadata.note": "${x}", "metadata.list": '["${y}"]'}
    assert flat_parameters("[") == {}
