"""What a stage says it will hand on is what it hands on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.data import Data
from mcomp.metrics import count
from mcomp.stages import Forecast, Stage, StageContext, StageResult
from mcomp.stages.registry import BUILT_IN, get

#: The least options with which each stage does its work, and the stages its input has been through.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "train": ({"epochs": 1}, []),
    "sparse_train": ({"epochs": 1}, []),
    "prune": ({"ratio": 0.3}, []),
    "finetune": ({"epochs": 1}, []),
    "quantize": ({"epochs": 0, "w_bits": 4}, []),
    "bn_fuse": ({}, ["quantize"]),
    "evaluate": ({}, []),
    "onnx_int8": ({"calibration": {"samples": 16}}, []),
    "trt_int8": ({}, ["quantize", "bn_fuse"]),
}


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=90, image_size=12)


def options(name: str) -> Any:
    return get(name).Options(**CASES[name][0])


def run(name: str, model: nn.Module, data: Data) -> StageResult:
    result = getattr(mcomp.stages, name)(model, data=data, seed=3, device="cpu", precision="fp32", **CASES[name][0])
    assert isinstance(result, StageResult)
    return result


def start(data: Data, weights_known: bool) -> Forecast:
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.copy_(torch.rand(norm.weight.shape) + 0.1)
    return replace(Forecast.of(model, data.example_inputs, weights_known=weights_known), seed=3)


def test_every_built_in_stage_has_a_case() -> None:
    assert set(CASES) == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_forecast_from_known_weights_is_exact(name: str, data: Data) -> None:
    told = start(data, weights_known=True)
    assert told.model is not None
    model = told.model
    for before in CASES[name][1]:
        told = get(before).forecast(told, options(before))
        model = run(before, model, data).model
    made = run(name, model, data).model
    found = get(name).forecast(told, options(name))
    cost = count(made, data.example_inputs)
    assert found.params == (cost.params, cost.params)
    assert found.macs == (cost.macs, cost.macs)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_forecast_leaves_the_model_it_was_told_of_alone(name: str, data: Data) -> None:
    told = start(data, weights_known=False)
    assert told.model is not None
    before = {key: value.clone() for key, value in told.model.state_dict().items()}
    get(name).forecast(told, options(name))
    assert all(torch.equal(before[key], value) for key, value in told.model.state_dict().items())


def test_a_range_goes_through_the_stages_behind_it(data: Data) -> None:
    told = start(data, weights_known=True)
    assert told.model is not None
    trained = get("train").forecast(told, options("train"))
    names = ["prune", "quantize", "bn_fuse", "trt_int8"]
    model, found = told.model, trained
    for name in names:
        found = get(name).forecast(found, options(name))
        model = run(name, model, data).model
        cost = count(model, data.example_inputs)
        assert found.params is not None
        assert found.macs is not None
        assert found.params[0] < found.params[1]
        assert found.params[0] <= cost.params <= found.params[1]
        assert found.macs[0] <= cost.macs <= found.macs[1]


def test_a_random_cut_is_known_before_any_training(data: Data) -> None:
    trained = get("train").forecast(start(data, weights_known=True), options("train"))
    chance = get("prune").Options(ratio=0.3, importance="random")  # type: ignore[call-arg]
    found = get("prune").forecast(trained, chance)
    assert trained.model is not None
    result = mcomp.stages.prune(trained.model, data=data, ratio=0.3, importance="random", seed=3)
    assert found.params == (result.metrics["params"], result.metrics["params"])


def test_a_second_pruning_keeps_the_outcome_in_its_range(data: Data) -> None:
    trained = get("train").forecast(start(data, weights_known=True), options("train"))
    once = get("prune").forecast(trained, options("prune"))
    twice = get("prune").forecast(once, options("prune"))
    assert trained.model is not None
    model = run("prune", run("prune", trained.model, data).model, data).model
    assert twice.params is not None
    assert twice.params[0] <= count(model, data.example_inputs).params <= twice.params[1]


def test_a_stage_that_says_nothing_leaves_everything_unknown(data: Data) -> None:
    class Quiet(Stage):
        """Say nothing."""

        name = "quiet"

        def run(self, ctx: StageContext, options: Any) -> StageResult:
            return StageResult(ctx.model)

    found = Quiet.forecast(start(data, weights_known=True), Quiet.Options())
    assert found == Forecast.unknown()
    assert Quiet.work(Quiet.Options()) is None
    assert get("bn_fuse").forecast(found, options("bn_fuse")) == Forecast.unknown()
    assert get("prune").forecast(found, options("prune")) == Forecast.unknown()


def test_an_engine_that_has_to_be_built_names_what_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.deploy import tensorrt_api

    monkeypatch.setattr(tensorrt_api, "installed_version", lambda: "")
    stage = get("trt_int8")
    assert stage.missing(stage.Options()) == ""
    assert "TensorRT" in stage.missing(stage.Options(on_missing="fail"))  # type: ignore[call-arg]


def test_one_of_two_outcomes_is_between_both(data: Data) -> None:
    whole = start(data, weights_known=True)
    cut = get("prune").forecast(whole, options("prune"))
    either = cut.either(whole)
    assert cut.params is not None
    assert whole.params is not None
    assert either.params == (cut.params[0], whole.params[1])
    assert not either.exact
    assert either.either(Forecast.unknown()) == Forecast.unknown()
