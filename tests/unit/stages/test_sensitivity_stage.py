"""The `sensitivity` stage: the model it was given and a map, however often it was interrupted on the way."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.data import Data
from mcomp.errors import InterruptedRun, UsageError
from mcomp.report.progress import step_text
from mcomp.search.recorded import recorded_sensitivity
from mcomp.search.sensitivity_map import SensitivityMap
from mcomp.stages import StageContext, StageResult, get
from mcomp.stages.builtin import sensitivity as stage_file
from mcomp.store.snapshot import load_snapshot, save_snapshot

STAGE = get("sensitivity")
FEW: dict[str, Any] = {"w_bits": [4, 2], "a_bits": [2], "keep": [0.5], "images": 16, "norm_batches": 1}


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=60, image_size=12)


@pytest.fixture(scope="module")
def model(data: Data) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).eval()


@pytest.fixture(scope="module")
def straight(model: nn.Module, data: Data, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return run(model, data, tmp_path_factory.mktemp("straight"))[0]


def run(
    model: nn.Module, data: Data, folder: Path, should_stop: Callable[[], int] = lambda: 0, **options: Any
) -> tuple[StageResult, list[dict[str, Any]]]:
    reports: list[dict[str, Any]] = []
    ctx = StageContext(copy.deepcopy(model), data.example_inputs, data, folder, seed=5, stage_id="sensitivity")
    ctx.report = lambda kind, **fields: reports.append({"kind": kind, **fields})
    ctx.save = lambda state: save_snapshot(folder, state)
    ctx.restore = lambda: load_snapshot(folder, lambda _text: None)
    ctx.should_stop = should_stop
    return STAGE().run(ctx, STAGE.Options(**(FEW | options))), reports


def test_the_model_goes_on_unchanged_to_the_bit_and_with_the_map(straight: StageResult, model: nn.Module) -> None:
    before, after = model.state_dict(), straight.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    found = recorded_sensitivity(straight.model)
    assert found is not None
    assert found.as_dict() == straight.details["sensitivity_map"]


def test_figures_and_files_say_what_the_map_says(straight: StageResult) -> None:
    found = SensitivityMap.from_dict(straight.details["sensitivity_map"])
    worst = found.worst
    assert worst is not None
    assert straight.metrics["most_sensitive_rise"] == worst.loss_rise == max(row.loss_rise for row in found.rows)
    assert straight.metrics["most_sensitive"] == f"{worst.kind} {worst.value:g} of {worst.layer}"
    assert straight.metrics["measured"] == len(found.rows) == 2 * 2 + 2 + 1
    assert SensitivityMap.from_dict(json.loads(straight.files["sensitivity.json"].read_text())) == found
    with straight.files["sensitivity.csv"].open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["kind", "layer", "value", "loss_rise", "top1_drop"]
    assert [(kind, layer, float(value)) for kind, layer, value, *_ in lines[1:]] == [row.cell for row in found.rows]
    assert [float(line[3]) for line in lines[1:]] == [row.loss_rise for row in found.rows]


@pytest.mark.parametrize("stops", [[1], [3, 2], [7]])
def test_an_interrupted_stage_goes_on_with_the_next_measurement(
    stops: list[int], straight: StageResult, model: nn.Module, data: Data, tmp_path: Path
) -> None:
    done = 0
    for stop in stops:
        asked = iter(range(1, 99))
        with pytest.raises(InterruptedRun):
            run(model, data, tmp_path, should_stop=lambda asked=asked, stop=stop: 2 * (next(asked) == stop))  # type: ignore[misc]
        done += stop
    again, reports = run(model, data, tmp_path)
    assert again.details == straight.details
    assert [report["step"] for report in reports if report["kind"] == "step"] == list(range(done + 1, 8))


def test_a_killed_stage_has_kept_a_snapshot_of_what_was_measured(
    model: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_file, "SAVE_EVERY", 0.0)
    run(model, data, tmp_path)
    kept = load_snapshot(tmp_path, lambda _text: None)
    assert kept is not None
    assert (kept["step"], kept["steps"]) == (7, 7)
    _, reports = run(model, data, tmp_path)
    assert not [report for report in reports if report["kind"] == "step"]


def test_every_measurement_is_told(model: nn.Module, data: Data, tmp_path: Path) -> None:
    _, reports = run(model, data, tmp_path)
    steps = [report for report in reports if report["kind"] == "step"]
    assert [step["step"] for step in steps] == list(range(1, 8))
    assert step_text({**steps[0], "eta_s": 9.0}) == "step 1/7, w_bits 4 of 0, 9 s left"


def test_values_go_from_the_gentlest_to_the_harshest_each_once() -> None:
    options: Any = STAGE.Options(w_bits=[2, 8, 2], a_bits=[], keep=[0.25, 0.75])  # type: ignore[call-arg]
    assert (options.w_bits, options.a_bits, options.keep) == ([8, 2], [], [0.75, 0.25])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"w_bits": [], "a_bits": [], "keep": []}, "nothing is to be measured"),
        ({"w_bits": [1]}, "greater than or equal to 2"),
        ({"keep": [1.0]}, "less than 1"),
    ],
)
def test_values_that_measure_nothing_are_refused(
    options: dict[str, Any], said: str, model: nn.Module, data: Data
) -> None:
    with pytest.raises(UsageError, match=said):
        mcomp.stages.sensitivity(model, data, **options)


def test_a_pattern_that_names_no_layer_is_found_before_anything_runs(model: nn.Module) -> None:
    (fault,) = STAGE.preflight(model, STAGE.Options(ignore=["features.9"]))  # type: ignore[call-arg]
    assert "features.9" in fault.message


def test_the_forecast_grows_with_values_and_images() -> None:
    small, large = (STAGE.work(STAGE.Options(**{**FEW, "images": images})) for images in (100, 200))
    assert small is not None
    assert large is not None
    assert large.layer_images - small.layer_images == 100 * 4
