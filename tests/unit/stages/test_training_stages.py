from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mcomp.stages
from mcomp.errors import InterruptedRun
from mcomp.stages import StageContext, Surroundings, get
from tests.unit.training.toys import Kept, ToyData, same_bits, stop_after, toy_net

TRAINING = ("train", "sparse_train", "finetune")
QUICK: dict[str, Any] = {"epochs": 2, "lr": 0.05}


def context(folder: Path, **fields: Any) -> StageContext:
    data = ToyData()
    ctx = StageContext(toy_net(), data.example_inputs, data, folder, **fields)  # type: ignore[arg-type]
    ctx.model.eval()
    return ctx


def test_stages_are_imported_without_torch() -> None:
    code = (
        "import sys; from mcomp.stages import get;"
        "[get(name).Options.model_json_schema() for name in ('train', 'sparse_train', 'finetune', 'evaluate')];"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_stage_reports_what_it_declares(name: str) -> None:
    result = getattr(mcomp.stages, name)(toy_net(), ToyData(), **QUICK)
    not_here = {"norm_small", "norm_median", "effective_macs"}  # of other methods, and behind `sparsify`
    assert set(result.metrics) == get(name).traits.metrics - not_here
    assert result.metrics["epochs"] == 2
    assert [row["epoch"] for row in result.details["history"]] == [1, 2]
    assert result.metrics["val_top1"] == result.details["history"][-1]["val_top1"]
    assert not result.model.training


@pytest.mark.parametrize("name", TRAINING)
def test_reported_accuracy_is_that_of_the_test_images_in_float32(name: str) -> None:
    data = ToyData()
    result = getattr(mcomp.stages, name)(toy_net(), data, precision="bf16", **QUICK)
    with torch.no_grad():
        right = (result.model(data.test.images).argmax(1) == data.test.labels).float().mean()
    assert result.metrics["top1"] == pytest.approx(100 * right.item())


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_stage_stopped_midway_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    stage = get(name)
    options = stage.Options(epochs=3)  # type: ignore[call-arg]
    whole = stage().run(context(tmp_path, seed=2), options)
    kept = Kept()
    with pytest.raises(InterruptedRun):
        stage().run(context(tmp_path, seed=2, save=kept.save, should_stop=stop_after(8)), options)
    resumed = stage().run(context(tmp_path, seed=2, save=kept.save, restore=kept.restore), options)
    assert same_bits(whole.model, resumed.model)
    assert whole.metrics == resumed.metrics


def test_evaluate_hands_the_model_on_and_measures_it() -> None:
    model = toy_net()
    result = mcomp.stages.evaluate(model, ToyData())
    assert same_bits(result.model, model)
    assert set(result.metrics) == {"top1", "loss"}


def test_sparse_training_needs_batch_norms_that_are_not_folded() -> None:
    assert get("sparse_train").traits.requires == {"float", "bn"}
    assert get("sparse_train").traits.provides == {"sparse"}
    assert get("finetune").traits.requires == get("train").traits.requires == {"float"}


METHODS = ("gamma_l1", "group_lasso", "growing")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_a_histogram_of_all_channels_per_epoch(method: str) -> None:
    result = mcomp.stages.sparse_train(toy_net(), ToyData(), method=method, **QUICK)
    quantity = "gamma" if method == "gamma_l1" else "norm"
    assert {f"{quantity}_median", f"{quantity}_small"} <= result.metrics.keys() <= get("sparse_train").traits.metrics
    for row in result.details["history"]:
        found = row[f"{quantity}_histogram"]
        assert sum(found["counts"]) == 6  # one convolution of six channels, the other layer is the output
        assert found["upper"] == pytest.approx(row[f"{quantity}_quantiles"][-1])


@pytest.mark.parametrize("method", METHODS)
def test_a_strength_that_is_left_out_is_the_method_s_own_in_the_key_too(method: str) -> None:
    stage = get("sparse_train")
    left_out = stage.Options(method=method)  # type: ignore[call-arg]
    resolved = stage.resolve(left_out, Surroundings())
    assert resolved.penalty > 0
    assert stage.resolve(resolved, Surroundings()) == resolved
    kept = stage.Options(method=method, penalty=0.25)  # type: ignore[call-arg]
    assert stage.resolve(kept, Surroundings()).penalty == 0.25


def test_a_subgradient_is_for_scales_only() -> None:
    stage = get("sparse_train")
    (found,) = stage.check(stage.Options(mode="subgradient", method="growing"), Surroundings())  # type: ignore[call-arg]
    assert (found.severity, found.option) == ("error", ("mode",))


def test_scales_of_a_network_without_batch_norms_are_refused_before_anything_runs() -> None:
    stage, bare = get("sparse_train"), torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten())
    (found,) = stage.preflight(bare, stage.Options())
    assert "group_lasso" in found.hint
    assert stage.preflight(bare, stage.Options(method="group_lasso")) == []  # type: ignore[call-arg]


def test_a_group_that_group_lasso_drives_out_whole_is_spoken_of() -> None:
    result = mcomp.stages.sparse_train(toy_net(), ToyData(), method="group_lasso", penalty=5.0, **QUICK)
    assert result.metrics["norm_small"] == 100.0
    assert result.notes == ["all channels of `0` are nearly zero: lower `penalty` to keep them"]


def test_sparse_training_pulls_scales_down() -> None:
    slight = mcomp.stages.sparse_train(toy_net(), ToyData(), penalty=1e-6, **QUICK)
    strong = mcomp.stages.sparse_train(toy_net(), ToyData(), penalty=0.05, **QUICK)
    assert strong.metrics["gamma_median"] < slight.metrics["gamma_median"]  # type: ignore[operator]
    assert slight.metrics["gamma_small"] == 0.0
    assert slight.notes == []


def test_a_layer_that_collapses_is_spoken_of() -> None:
    result = mcomp.stages.sparse_train(toy_net(), ToyData(), penalty=1.0, **QUICK)
    assert result.metrics["gamma_small"] == 100.0
    assert "`1`" in result.notes[0]
    assert "lower `penalty`" in result.notes[0]


def test_a_milestone_behind_the_last_epoch_is_warned_of() -> None:
    stage = get("train")
    idle = stage.Options(epochs=5, schedule="multistep", milestones=[0.5, 80])  # type: ignore[call-arg]
    found = stage.check(idle, Surroundings())
    assert [(finding.severity, finding.option) for finding in found] == [("warning", ("milestones", 1))]
    assert "milestone 80 never comes" in found[0].message
    assert stage.check(idle.model_copy(update={"schedule": "cosine"}), Surroundings()) == []


def test_a_subgradient_under_an_adaptive_optimiser_is_warned_of() -> None:
    stage = get("sparse_train")
    assert stage.check(stage.Options(mode="subgradient"), Surroundings()) == []  # type: ignore[call-arg]
    found = stage.check(stage.Options(mode="subgradient", optimizer="adam"), Surroundings())  # type: ignore[call-arg]
    assert found[0].option == ("mode",)


def test_finetuning_is_gentler_than_training() -> None:
    assert get("finetune").Options().lr < get("train").Options().lr  # type: ignore[attr-defined]
