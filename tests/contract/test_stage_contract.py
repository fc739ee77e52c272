"""What every stage promises, built in or not."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.data import Data
from mcomp.stages import StageResult, names
from mcomp.stages.base import COMMON_METRICS, Stage
from mcomp.stages.registry import BUILT_IN, get
from mcomp.surgery import provenance

#: A stage whose package is an extra is held to the contract where that is installed.
_ABSENT = {"openvino_int8"} if find_spec("openvino") is None else set()
HERE = [
    pytest.param(name, marks=pytest.mark.skip("OpenVINO is not installed")) if name in _ABSENT else name
    for name in BUILT_IN
]

#: The least options with which each stage does its work, and the stages its input has been through.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "train": ({"epochs": 1}, []),
    "sparse_train": ({"epochs": 1}, []),
    "sensitivity": ({"w_bits": [2], "a_bits": [2], "keep": [0.5], "images": 16, "norm_batches": 1}, []),
    "prune": ({"ratio": 0.3, "importance": "l1"}, []),
    "sparsify": ({"ratio": 0.5}, []),
    "finetune": ({"epochs": 1}, []),
    "quantize": ({"epochs": 1}, []),
    "calibrate": (
        {"equalize": True, "bias_correction": True, "adaround": {"iterations": 3}, "reestimate_bn": 1, "w_bits": 4},
        [],
    ),
    "qaft": ({"epochs": 1}, ["quantize"]),
    "bn_fuse": ({}, []),
    "search": (
        {
            "candidates": 4,
            "population": 4,
            "w_bits": [2, 8],
            "keep": [0.5, 1.0],
            "budgets": {"bytes": 0.2},
            "images": 16,
            "norm_batches": 1,
        },
        [],
    ),
    "evaluate": ({}, []),
    "export": ({"formats": ["torchscript"]}, ["quantize", "bn_fuse"]),
    "packed": ({}, ["quantize"]),
    "onnx_int8": ({}, ["quantize", "bn_fuse"]),
    "openvino_int8": ({}, ["quantize", "bn_fuse"]),
    "trt_int8": ({}, ["quantize", "bn_fuse"]),
}


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=90, image_size=12)


def incoming(name: str, data: Data) -> nn.Module:
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    for before in CASES[name][1]:
        model = run(before, model, data).model
    return model


def run(name: str, model: nn.Module, data: Data, seed: int = 3) -> StageResult:
    function = getattr(mcomp.stages, name)
    result = function(model, data=data, seed=seed, device="cpu", precision="fp32", **CASES[name][0])
    assert isinstance(result, StageResult)
    return result


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_every_built_in_stage_has_a_case() -> None:
    assert set(CASES) == set(BUILT_IN)


@pytest.mark.parametrize("name", HERE)
def test_a_stage_is_declared_whole(name: str) -> None:
    stage = get(name)
    assert issubclass(stage, Stage)
    assert stage.name == name
    assert stage.version >= 1
    assert stage.summary().endswith(".")
    assert name in names()


@pytest.mark.parametrize("name", HERE)
def test_a_stage_reports_what_it_declared_and_leaves_its_input_alone(name: str, data: Data) -> None:
    model = incoming(name, data)
    before, log = weights(model), copy.deepcopy(provenance(model).log)
    result = run(name, model, data)
    assert set(result.metrics) <= get(name).traits.metrics | COMMON_METRICS
    assert 0 <= float(result.metrics["top1"]) <= 100
    assert same(before, weights(model))
    assert provenance(model).log == log
    assert all(Path(path).is_file() for path in result.files.values())


@pytest.mark.parametrize("name", HERE)
def test_a_stage_is_a_function_of_its_input_and_seed(name: str, data: Data) -> None:
    model = incoming(name, data)
    first, second = run(name, model, data), run(name, model, data)
    assert same(weights(first.model), weights(second.model))
    assert first.metrics["top1"] == second.metrics["top1"]


@pytest.mark.parametrize("name", HERE)
def test_what_a_stage_hands_on_reads_back_with_the_same_logits(name: str, data: Data, tmp_path: Path) -> None:
    result = run(name, incoming(name, data), data)
    mcomp.save_model(result.model, tmp_path / "model", data.example_inputs)
    again = mcomp.load_model(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(*data.example_inputs), result.model.eval()(*data.example_inputs))


@pytest.mark.parametrize("name", HERE)
def test_an_unknown_option_is_refused_with_a_suggestion(name: str, data: Data) -> None:
    options = list(get(name).Options.model_fields)
    wrong = f"{options[0]}x" if options else "anything"
    with pytest.raises(mcomp.McompError, match=wrong):
        getattr(mcomp.stages, name)(nn.Identity(), data=data, **{wrong: 1})
