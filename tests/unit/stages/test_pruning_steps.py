"""Pruning in steps with training between: the way there, and the same bits after an interruption."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.data import Data
from mcomp.errors import InterruptedRun, StageError
from mcomp.pruning.whole_layers import of_whole_layers
from mcomp.stages import StageContext, StageResult, get
from mcomp.store.snapshot import load_snapshot, save_snapshot
from mcomp.surgery import provenance

Prune = get("prune")
SCHEDULE = {"params": 0.4, "importance": "taylor", "score_batches": 1}
STEPS = {"steps": 3, "finetune": {"epochs": 2, "batch_size": 16, "checkpoint_every": {"epochs": 1}}}


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=60, image_size=12)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Small, with what a snapshot may lose: groups, statistics of batch norms, channels spread over a flattening."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


@pytest.fixture(scope="module")
def through(
    model: nn.Module, data: Data, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StageResult, list[dict[str, Any]]]:
    """A schedule run through, and its reports."""
    return run(model, data, tmp_path_factory.mktemp("through"), **SCHEDULE)


@pytest.fixture(scope="module")
def straight(through: tuple[StageResult, list[dict[str, Any]]]) -> StageResult:
    """What that schedule made; to be read only."""
    return through[0]


def run(
    model: nn.Module, data: Data, folder: Path, should_stop: Callable[[], int] = lambda: 0, **options: Any
) -> tuple[StageResult, list[dict[str, Any]]]:
    return run_on(copy.deepcopy(model).eval(), data, folder, should_stop, **options)


def run_on(
    model: nn.Module, data: Data, folder: Path, should_stop: Callable[[], int] = lambda: 0, **options: Any
) -> tuple[StageResult, list[dict[str, Any]]]:
    reports: list[dict[str, Any]] = []
    folder.mkdir(exist_ok=True)
    ctx = StageContext(model, data.example_inputs, data, folder, seed=5, stage_id="prune")
    ctx.report = lambda kind, **fields: reports.append({"kind": kind, **fields})
    ctx.save = lambda state: save_snapshot(folder, state)
    ctx.restore = lambda: load_snapshot(folder, lambda _text: None)
    ctx.should_stop = should_stop
    return Prune().run(ctx, Prune.Options(**(STEPS | options))), reports


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize(
    "options", [{"ratio": 0.6, "regular": 4}, {"macs": 0.3}, {"keep": {"features.*": 0.4}}], ids=str
)
def test_each_step_keeps_the_same_factor_and_the_last_is_the_target(
    options: dict[str, Any], data: Data, tmp_path: Path
) -> None:
    plain = mcomp.models.build("nin", num_classes=3, width=0.25, in_shape=data.in_shape)
    result, _ = run(plain, data, tmp_path, importance="l1", **options)
    rows = result.details["steps"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    kind = "macs" if "macs" in options else "channels"
    channels = sum(layer["before"] for layer in result.details["layers"][:-1])  # the last makes the output
    whole = result.details["macs_before"] if kind == "macs" else channels
    for row in rows:
        due = whole * options_share(options) ** (row["step"] / 3)
        assert row[kind] == pytest.approx(due, rel=0.08)
    assert result.metrics["macs"] == rows[-1]["macs"] < rows[0]["macs"]
    assert [row["epoch"] for row in result.details["history"]] == [1, 2, 3, 4]
    assert all("val_top1" in row for row in rows[:-1])


def options_share(options: dict[str, Any]) -> float:
    (share,) = (options[name] for name in ("macs", "ratio", "keep") if name in options)
    if isinstance(share, dict):
        return float(next(iter(share.values())))
    return 1 - share if "ratio" in options else share


def test_progress_counts_epochs_through(through: tuple[StageResult, list[dict[str, Any]]]) -> None:
    _, reports = through
    epochs = [(report["epoch"], report["epochs"]) for report in reports if report["kind"] == "epoch"]
    assert epochs == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("stop_at", [1, 6, 7, 11])
def test_an_interrupted_schedule_ends_with_the_same_bits(
    stop_at: int, straight: StageResult, data: Data, model: nn.Module, tmp_path: Path
) -> None:
    asked = 0

    def stop() -> int:
        nonlocal asked
        asked += 1
        return 2 if asked == stop_at else 0

    with pytest.raises(InterruptedRun):
        run(model, data, tmp_path, stop, **SCHEDULE)
    resumed, _ = run(model, data, tmp_path, **SCHEDULE)
    expected, found = tensors(straight.model), tensors(resumed.model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert provenance(resumed.model).log == provenance(straight.model).log
    assert [row["params"] for row in resumed.details["steps"]] == [row["params"] for row in straight.details["steps"]]
    assert resumed.metrics == straight.metrics


def test_a_resumed_schedule_leaves_the_model_that_came_in_as_it_was(
    data: Data, model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRun):
        run(model, data, tmp_path, lambda: 2, **SCHEDULE)
    given = copy.deepcopy(model).eval()
    run_on(given, data, tmp_path, **SCHEDULE)
    before, after = tensors(model), tensors(given)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert provenance(given).log == []


class TwoLayers(nn.Module):
    """Two layers of 64 channels; where that is asked for, the code insists on those of the first."""

    def __init__(self, stuck: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.out, self.stuck = nn.Linear(64, 3), stuck

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        if self.stuck and x.shape[1] != 64:
            raise ValueError("64 channels are expected here")
        return self.out(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("scope", ["per_layer", "global"])
@pytest.mark.parametrize(
    ("stuck", "options"),
    [(False, {}), (False, {"keep": {"a": 0.9}}), (False, {"ignore": ["a"]}), (True, {})],
    ids=["all ranked", "one listed", "one ignored", "one stuck"],
)
def test_a_ratio_in_steps_is_of_what_is_ranked_alone(
    stuck: bool, options: dict[str, Any], scope: str, data: Data, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = TwoLayers(stuck)
    how = {"ratio": 0.5, "importance": "l1", "scope": scope, **options}
    result, _ = run(network, data, tmp_path, **how, finetune={"epochs": 1, "batch_size": 16})
    widths = {row["layer"]: row["after"] for row in result.details["layers"]}
    ranked = ["a", "b"] if not stuck and not options else ["b"]
    assert sum(widths[name] for name in ranked) == pytest.approx(32 * len(ranked), abs=2)
    if "keep" in options:
        assert widths["a"] == 58
    if stuck:
        assert [note for note in result.notes if note.startswith("left whole: `a`: the code of ")]
        assert result.details["steps"][-1]["channels"] == 64 + widths["b"]


def test_a_layer_that_lies_above_the_threshold_is_ranked_all_the_same(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TwoLayers()
    with torch.no_grad():
        network.a.weight.mul_(1000)
    how = {
        "ratio": 0.3,
        "importance": "l1",
        "normalize": "none",
        "finetune": {"epochs": 1, "batch_size": 16, "lr": 1e-6},
    }
    result, _ = run(network, data, tmp_path, **how)
    widths = {row["layer"]: row["after"] for row in result.details["layers"]}
    assert (widths["a"], widths["b"]) == (64, pytest.approx(128 * 0.7 - 64, abs=2))


def test_the_artifact_of_a_schedule_loads_again(data: Data, tmp_path: Path) -> None:
    whole = mcomp.models.build("lenet", num_classes=3, in_shape=data.in_shape)
    result, _ = run(whole, data, tmp_path / "work", **SCHEDULE)
    assert [entry["op"] for entry in provenance(result.model).log] == ["prune"] * 3
    mcomp.save_model(result.model, tmp_path / "artifact", data.example_inputs)
    again = mcomp.load_model(tmp_path / "artifact")
    with torch.no_grad():
        assert torch.equal(again(data.example_inputs[0]), result.model(data.example_inputs[0]))


def test_a_snapshot_of_another_version_starts_over(
    straight: StageResult, data: Data, model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRun):
        run(model, data, tmp_path, lambda: 2, **SCHEDULE)
    state = load_snapshot(tmp_path, lambda _text: None)
    assert state is not None
    state["training"]["format"] = -1
    save_snapshot(tmp_path, state)
    again, _ = run(model, data, tmp_path, **SCHEDULE)
    expected, found = tensors(straight.model), tensors(again.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_target_out_of_reach_is_named_with_the_step_that_fails(model: nn.Module, data: Data, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"step 1 of 3 on the way to `macs: 1e-06` \(\d+ of \d+\)") as error:
        run(model, data, tmp_path, macs=1e-6, importance="l1")
    assert error.value.code == "MC455"


def test_only_layers_that_no_step_cut_are_left_whole(model: nn.Module, data: Data, tmp_path: Path) -> None:
    result, _ = run(model, data, tmp_path, params=0.3, importance="l1", steps=5, finetune={"epochs": 1})
    whole = {row["layer"] for row in result.details["layers"] if row["before"] == row["after"]}
    named = {name for note in result.notes if note.startswith("left whole") for name in re.findall("`([^`]*)`", note)}
    assert named <= whole
    assert "8" in named


def test_notes_keep_their_reasons_when_layers_go_out_of_them() -> None:
    notes = ["left whole: `a`, `b.0`: 15 of its 15 channels lie above `x`", "left whole: `c`: is cut", "something: `c`"]
    assert of_whole_layers(notes, ["b.0"]) == [
        "left whole: `b.0`: 15 of its 15 channels lie above `x`",
        "something: `c`",
    ]
