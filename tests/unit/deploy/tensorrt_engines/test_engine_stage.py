"""`trt_int8` from end to end, with a TensorRT whose engine asks ONNX Runtime for its answers."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import mcomp.data
import mcomp.stages
from mcomp.data import Data
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.errors import BackendMissingError, StageError
from mcomp.stages.base import StageContext, StageResult, Surroundings
from mcomp.stages.builtin.trt_int8 import TrtInt8
from tests.unit.deploy.deploy_networks import chain, quantised
from tests.unit.deploy.tensorrt_engines.fake import Fake, HostDevice, without_pycuda


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load("digits", image_size=8, limit=100)


@pytest.fixture
def answering(trt: Fake, host: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The fake, its engine computing what the file says."""
    file, original = tmp_path / "model.trt.onnx", trt._one
    shape: list[tuple[int, ...]] = []

    def one(path: str, arguments: tuple[Any, ...]) -> Any:
        if path == "IExecutionContext.set_input_shape":
            shape[:] = [arguments[1]]
            trt.outputs = {"output": (arguments[1][0], 10)}
        if path == "IExecutionContext.execute_async_v3":
            addresses = dict(trt.given["IExecutionContext.set_tensor_address"][-2:])
            images = torch.empty(shape[0])
            ctypes.memmove(images.data_ptr(), addresses["input"], images.nbytes)
            answer = OnnxSession(file, 1, simulate=True).predict(images).contiguous()
            ctypes.memmove(addresses["output"], answer.data_ptr(), answer.nbytes)
        return original(path, arguments)

    trt._one = one  # type: ignore[method-assign]
    monkeypatch.setattr("mcomp.deploy.tensorrt.api.load_tensorrt", lambda: trt)
    monkeypatch.setattr("mcomp.deploy.tensorrt.trial.open_device", lambda buffers: host)
    return trt


def run(model: nn.Module, data: Data, folder: Path, **options: Any) -> StageResult:
    context = StageContext(model, data.example_inputs, data, folder, stage_id="trt_int8")
    return TrtInt8().run(context, TrtInt8.Options(latency_runs=2, **options))


def test_a_built_engine_is_run_timed_and_held_against_the_simulation(
    answering: Fake, data: Data, tmp_path: Path, host: HostDevice
) -> None:
    result = run(quantised(levels=127), data, tmp_path, batch={"min": 7, "opt": 8, "max": 9})
    assert set(result.metrics) >= {"engine_latency_ms", "engine_int8_layers"}
    assert result.metrics["engine_agreement"] >= 97
    assert result.metrics["engine_top1"] == pytest.approx(result.metrics["top1"], abs=3)
    assert {"model.plan", "model.plan.json", "model.trt.onnx", "trtexec.txt"} <= set(result.files)
    engine = result.details["engine"]
    assert engine["status"] == "built"
    assert engine["verified_on"] == f"Fake GPU sm_90, TensorRT {answering.__version__}"
    assert json.loads(result.files["model.plan.json"].read_text())["verified_on"] == engine["verified_on"]
    assert any(f"verified_on: {engine['verified_on']}" in note for note in result.notes)
    given = answering.given["IExecutionContext.set_input_shape"]
    assert {shape[0] for _, shape in given} <= {7, 8, 9}
    assert host.events[-1] == "close"


def test_what_was_never_compared_is_verified_nowhere(answering: Fake, tmp_path: Path, data: Data) -> None:
    context = StageContext(quantised(levels=127), data.example_inputs, None, tmp_path, stage_id="trt_int8")
    result = TrtInt8().run(context, TrtInt8.Options(latency_runs=2))
    assert result.details["engine"]["verified_on"] == "none"
    assert any("verified_on: none" in note for note in result.notes)
    assert "engine_top1" not in result.metrics


def test_shapes_of_the_recipe_reach_the_engine_and_the_command(answering: Fake, data: Data, tmp_path: Path) -> None:
    shapes = {"input": {"min": [2, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [16, 3, 8, 8]}}
    result = run(quantised(levels=127), data, tmp_path, shapes=shapes)
    assert answering.given["IOptimizationProfile.set_shape"] == [("input", *shapes["input"].values())]
    assert "--optShapes=input:4x3x8x8" in result.files["trtexec.txt"].read_text()


def test_a_shape_that_does_not_fit_is_refused_without_any_tensorrt(data: Data, tmp_path: Path) -> None:
    shapes = {"image": {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [1, 3, 8, 8]}}
    with pytest.raises(StageError, match=r"names `image`, which is no input of `model\.trt\.onnx`") as caught:
        run(quantised(levels=127), data, tmp_path, shapes=shapes)
    assert "`input` [free, 3, 8, 8]" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_float_engine_comes_from_a_file_of_that_float(
    answering: Fake, data: Data, tmp_path: Path, precision: str
) -> None:
    result = run(chain().eval(), data, tmp_path, precision=precision)
    file = onnx.load(result.files["model.trt.onnx"])
    assert not {node.op_type for node in file.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    kinds = {tensor.data_type for tensor in file.graph.initializer if len(tensor.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT}
    assert result.metrics["agreement"] >= 99
    assert result.metrics["engine_agreement"] >= 99
    assert set(result.metrics) <= TrtInt8.traits.metrics | {"bytes", "latency_ms"}
    ratio = result.metrics["fp32_bytes"] / result.metrics["bytes"]  # type: ignore[operator]
    assert ratio == 1 if precision == "fp32" else ratio > 1.5
    assert ("model.fp32.onnx" in result.files) == (precision == "fp16")


def test_what_lies_between_the_integers_may_be_half_precision(answering: Fake, data: Data, tmp_path: Path) -> None:
    result = run(quantised(levels=127), data, tmp_path, rest="fp16")
    file = onnx.load(result.files["model.trt.onnx"])
    stored = {tensor.name: tensor.data_type for tensor in file.graph.initializer}
    scales = [stored[node.input[1]] for node in file.graph.node if node.op_type == "QuantizeLinear"]
    assert scales
    assert set(scales) == {onnx.TensorProto.FLOAT16}
    assert result.metrics["agreement"] >= 95
    assert result.details["lowering"]["exact"] is False


def test_a_float_engine_needs_no_calibration_and_says_what_does_nothing() -> None:
    around = Surroundings(have=frozenset({"float"}))
    assert TrtInt8.check(TrtInt8.Options(precision="fp16"), around) == []
    [finding] = TrtInt8.check(TrtInt8.Options(precision="fp32", calibration={"samples": 4}), around)
    assert (finding.option, finding.severity) == (("calibration",), "warning")
    [finding] = TrtInt8.check(TrtInt8.Options(), around)
    assert finding.severity == "error"


def test_precision_is_the_engine_s_own_in_python_too(data: Data, tmp_path: Path) -> None:
    result = mcomp.stages.trt_int8(chain().eval(), data=data, precision="fp32", latency_runs=2, work_dir=tmp_path)
    assert result.details["lowering"]["profile"] == "float"
    assert (mcomp.stages.trt_int8.__doc__ or "").count("    precision:") == 1


def test_buffers_that_are_not_there_end_in_a_note_or_in_exit_code_7(
    trt: Fake, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcomp.deploy.tensorrt.api.load_tensorrt", lambda: trt)
    without_pycuda(monkeypatch)
    result = run(quantised(levels=127), data, tmp_path, buffers="pycuda")
    assert any("engine not built: pycuda is not installed (engine verified_on: none)" in note for note in result.notes)
    with pytest.raises(BackendMissingError, match="pycuda is not installed"):
        run(quantised(levels=127), data, tmp_path, buffers="pycuda", on_missing="fail")


def test_neither_cache_is_part_of_the_key() -> None:
    from mcomp.engine.roots import keyed_options

    plain = keyed_options(TrtInt8.Options())
    assert keyed_options(TrtInt8.Options(timing_cache="here", scales="there")) == plain
    assert keyed_options(TrtInt8.Options(optimization_level=5)) != plain
    assert keyed_options(TrtInt8.Options(precision="fp16")) != plain
