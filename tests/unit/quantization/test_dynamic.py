from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mcomp
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.errors import StageError, UsageError
from mcomp.quantization import describe, quantize
from mcomp.quantization.quantizers import DynamicQuantizer
from tests.unit.quantization.conversion_nets import CASES


@pytest.fixture(scope="module")
def runtime() -> onnxruntime.InferenceSession:
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    given_ = [helper.make_tensor_value_info("x", kinds.FLOAT, ["n"])]
    made = [helper.make_tensor_value_info("y", kinds.FLOAT, ["n"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given_, made), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=40),
    shift=st.sampled_from([0.0, 100.0, -100.0]),
)
def test_the_quantiser_is_the_operator_of_onnx_to_the_bit(
    runtime: onnxruntime.InferenceSession, values: list[float], shift: float
) -> None:
    x = np.asarray(values, np.float32) + np.float32(shift)
    if 0 < float(np.abs(x).max()) < 1e-30:
        return
    found = DynamicQuantizer()(torch.from_numpy(x)).numpy()
    assert np.array_equal(found, runtime.run(None, {"x": x})[0])


@pytest.mark.parametrize("x", [torch.zeros(3), torch.full((4,), 2.5), torch.full((2,), -1.0), torch.empty(0, 3)])
def test_degenerate_tensors_stay_near_what_they_are(x: torch.Tensor) -> None:
    found = DynamicQuantizer()(x)
    assert found.shape == x.shape
    assert torch.allclose(found, x, atol=1e-6)


def test_every_tensor_has_its_own_range_and_nothing_to_calibrate() -> None:
    quantizer = DynamicQuantizer().eval()
    assert quantizer.ready
    assert not quantizer.state_dict()
    small, large = (quantizer(torch.linspace(-scale, scale, 99)) for scale in (1e-3, 1e3))
    assert torch.allclose(small * 1e6, large, rtol=1e-4, atol=1e-1)


def test_the_gradient_is_that_of_the_identity() -> None:
    x = torch.randn(50, requires_grad=True)
    weight = torch.randn(50)
    (DynamicQuantizer()(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(StageError):
        DynamicQuantizer()(torch.tensor([1.0, value]))


def test_other_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="bits"):
        DynamicQuantizer(4)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "lstm_cell", "attention_by_hand", "unet", "control_flow"])
def test_a_network_computes_nearly_the_same_without_any_calibration(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    model, x = case.build().eval(), case.inputs(4)
    quantised = quantize(model, (x,), scheme="dynamic")
    with torch.no_grad():
        expected, found = model(x), quantised(x)
    noise = float((found - expected).square().mean())
    assert 10 * np.log10(float(expected.square().mean()) / noise) > 20
    rows = [row for row in describe(quantised) if row["kind"] == "activation"]
    assert rows
    assert {(row["scheme"], row["observer"]) for row in rows} == {("dynamic", "")}


def test_convolutions_can_be_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()
    quantised = quantize(model, (torch.randn(2, 3, 12, 12),), scheme="dynamic", skip=["type:Conv2d"])
    bits = {row["name"]: row["bits"] for row in describe(quantised) if row["kind"] == "weight"}
    assert bits == {"0": 32, "3": 8}


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(72, 16), nn.GELU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    return model, torch.randn(8, 3, 12, 12)


def test_onnx_runtime_computes_what_was_simulated(tmp_path: Path) -> None:
    model, x = _network()
    quantised = quantize(model, (x,), scheme="dynamic")
    lowering = mcomp.deploy.to_onnx(quantised, (x,), tmp_path / "m.onnx", profile="onnxruntime")
    assert lowering.exact
    proto = onnx.load(tmp_path / "m.onnx")
    assert [node.op_type for node in proto.graph.node].count("DynamicQuantizeLinear") == 4
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        expected = quantised(x).numpy()
        plain = model(x).numpy()
    # a float that differs in its last bit may move a value by one level; nothing else may differ
    assert np.abs(found - expected).max() < 0.2 * np.abs(plain - expected).max() + 1e-6
    assert float(np.median(np.abs(found - expected))) < 1e-6


def test_linear_layers_multiply_integers_in_onnx_runtime(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)).eval()
    x = torch.randn(4, 5, 6)
    quantised = quantize(model, (x,), scheme="dynamic").eval()
    lowering = mcomp.deploy.to_onnx(quantised, (x,), tmp_path / "m.onnx", profile="onnxruntime")
    written = [node.op_type for node in onnx.load(lowering.path).graph.node]
    assert (written.count("MatMulInteger"), written.count("DequantizeLinear")) == (2, 0)
    session = OnnxSession(lowering.path, save_optimized=tmp_path / "run.onnx")
    with torch.no_grad():
        expected = quantised(x)
    assert (session.predict(x) - expected).abs().max() <= 1e-6
    run = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert not run & {"Gemm", "MatMul", "FusedGemm"}


def test_tensorrt_takes_constant_scales_only(tmp_path: Path) -> None:
    model, x = _network()
    quantised = quantize(model, (x,), scheme="dynamic")
    with pytest.raises(StageError, match="anew for each tensor") as caught:
        mcomp.deploy.to_onnx(quantised, (x,), tmp_path / "m.onnx", profile="tensorrt")
    assert caught.value.code == "MC431"


def test_as_a_stage_it_needs_no_training() -> None:
    data: Any = mcomp.data.load(name="synthetic", num_classes=3, samples=60, image_size=12)
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    done = mcomp.stages.calibrate(model, data, scheme="dynamic", device="cpu", precision="fp32")
    assert {row["scheme"] for row in done.details["tensors"] if row["kind"] == "activation"} == {"dynamic"}
