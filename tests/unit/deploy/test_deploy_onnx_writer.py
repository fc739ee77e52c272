from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.float_export import export_float
from mcomp.errors import StageError, UsageError
from mcomp.metrics import sqnr_db
from mcomp.quantization import fold_batch_norms, quantize
from tests.unit.deploy.deploy_networks import Residual, chain, images, quantised


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def simulated(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("profile", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize(
    "options",
    [
        {"levels": 127},
        {"levels": 127, "per_channel": True},
        {"w_bits": 4, "a_bits": 4},
        {"w_bits": 2, "a_bits": 3},
        {"w_bits": 4, "a_bits": 4, "variant": "paper"},
        {"first_layer_float": True, "levels": 127},
    ],
    ids=str,
)
@pytest.mark.parametrize("network", [chain, Residual])
def test_the_file_computes_what_was_simulated(
    tmp_path: Path, network: Any, options: dict[str, Any], profile: Any
) -> None:
    model = quantised(network(), **options)
    x = images(8, seed=2)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx", profile)
    assert lowering.exact, lowering.notes
    folded = fold_batch_norms(model, (x,)).model
    found = OnnxSession(lowering.path, simulate=True).predict(x)
    bound = 50 if profile == "tensorrt" else 20  # int32 biases round by half a unit, seen at 3 bits
    assert sqnr_db(simulated(folded, x), found) > bound
    assert not [each for each in check_qdq(lowering.path, profile) if each.severity == "error"]


def test_255_levels_are_exact_in_onnxruntime_and_reported_as_inexact_for_tensorrt(tmp_path: Path) -> None:
    model, x = quantised(levels=255), images(2)
    assert to_onnx(model, (x,), tmp_path / "o.onnx", "onnxruntime").exact
    lowering = to_onnx(model, (x,), tmp_path / "t.onnx", "tensorrt")
    assert not lowering.exact
    assert lowering.max_abs_error > 0
    assert any("255 positive levels" in note for note in lowering.notes)


@pytest.mark.parametrize("profile", ["onnxruntime", "tensorrt", "float"])
def test_any_batch_size_runs(tmp_path: Path, profile: Any) -> None:
    session = OnnxSession(to_onnx(quantised(), (images(2),), tmp_path / "m.onnx", profile).path)
    for count in (1, 3, 17):
        assert session.predict(images(count)).shape == (count, 10)


def test_every_inner_convolution_becomes_an_integer_kernel_in_onnxruntime(tmp_path: Path) -> None:
    lowering = to_onnx(quantised(), (images(2),), tmp_path / "m.onnx")
    OnnxSession(lowering.path, save_optimized=tmp_path / "optimized.onnx")
    found = kinds(tmp_path / "optimized.onnx")
    assert found["QLinearConv"] == 3
    assert found["QGemm"] == 1
    assert not found["Conv"] + found["FusedConv"] + found["Relu"]


def test_equal_biases_stay_constants_of_their_own_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    for layer in model[::2]:
        nn.init.zeros_(layer.bias)
    lowering = to_onnx(quantised(model, levels=127), (images(2),), tmp_path / "m.onnx", "tensorrt")
    assert not kinds(lowering.path)["Identity"]
    assert not check_qdq(lowering.path)


def test_one_tensor_moved_along_several_branches_is_quantised_again_on_each(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            pooled = nn.functional.max_pool2d(x, 2)
            small = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
            return (self.a(pooled) + self.b(small)).mean((2, 3))

    model, x = quantised(Branches()), images(4)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx")
    assert kinds(lowering.path)["QuantizeLinear"] == 4
    assert sqnr_db(simulated(model, x), OnnxSession(lowering.path).predict(x)) > 40


def test_a_tensor_with_two_readers_has_one_quantiser(tmp_path: Path) -> None:
    model = quantised(Residual(), levels=127)
    lowering = to_onnx(model, (images(2),), tmp_path / "m.onnx", "tensorrt")
    names = [row.name for row in lowering.tensors if row.kind == "activation"]
    assert len(names) == len(set(names))
    assert kinds(lowering.path)["QuantizeLinear"] == len(names)


def test_batch_norms_are_folded_and_the_model_is_left_alone(tmp_path: Path) -> None:
    model = quantised()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowering = to_onnx(model, (images(2),), tmp_path / "m.onnx")
    assert not kinds(lowering.path)["BatchNormalization"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_float_model_is_written_as_it_is(tmp_path: Path) -> None:
    model, x = Residual().eval(), images(4)
    lowering = to_onnx(model, (x,), tmp_path / "m.onnx", "float")
    torch.testing.assert_close(OnnxSession(lowering.path).predict(x), simulated(model, x), rtol=1e-4, atol=1e-5)
    assert lowering.bytes == lowering.path.stat().st_size
    assert not lowering.tensors


def test_sixteen_bit_grids_are_int16_for_onnxruntime_and_float_for_tensorrt(tmp_path: Path) -> None:
    model, x = quantised(w_bits=12, a_bits=12), images(4)
    lowering = to_onnx(model, (x,), tmp_path / "o.onnx", "onnxruntime")
    assert lowering.exact
    assert {row.dtype for row in lowering.tensors if row.kind == "weight"} == {"int16"}
    assert sqnr_db(simulated(model, x), OnnxSession(lowering.path).predict(x)) > 60
    coarse = to_onnx(model, (x,), tmp_path / "t.onnx", "tensorrt")
    assert not coarse.exact
    assert any("left float" in note for note in coarse.notes)
    assert sqnr_db(simulated(model, x), OnnxSession(coarse.path).predict(x)) > 40


def test_the_papers_eight_bit_weights_are_said_to_be_inexact(tmp_path: Path) -> None:
    lowering = to_onnx(quantised(variant="paper"), (images(2),), tmp_path / "m.onnx")
    assert not lowering.exact
    assert any("do not fit int8" in note for note in lowering.notes)


def test_int8_weights_make_the_file_almost_four_times_smaller(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Conv2d(256, 64, 3))
    int8 = to_onnx(quantised(model), (images(2),), tmp_path / "i.onnx")
    fp32 = to_onnx(model, (images(2),), tmp_path / "f.onnx", "float")
    assert fp32.bytes > 3.7 * int8.bytes


def test_where_the_file_came_from_is_written_in_it(tmp_path: Path) -> None:
    from mcomp import surgery

    model = quantised()
    surgery.provenance(model).class_names = ["cat", "dog"]
    to_onnx(model, (images(2),), tmp_path / "m.onnx", metadata={"mcomp.recipe": "r", "numbers": [1]})
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert props["mcomp.profile"] == "onnxruntime"
    assert props["mcomp.class_names"] == '["cat", "dog"]'
    assert props["mcomp.recipe"] == "r"
    assert props["numbers"] == "[1]"


def test_newer_opsets_are_written_on_request(tmp_path: Path) -> None:
    to_onnx(quantised(), (images(2),), tmp_path / "m.onnx", opset=21)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 21


def test_a_quantiser_without_a_range_is_refused_by_name(tmp_path: Path) -> None:
    model = quantize(chain().eval(), (images(2),), first_layer_float=True).eval()
    with pytest.raises(StageError, match="has no range yet"):
        to_onnx(model, (images(2),), tmp_path / "m.onnx")


def test_a_scale_that_is_nan_is_refused_by_name(tmp_path: Path) -> None:
    model = fold_batch_norms(quantised(), (images(2),)).model
    quantiser = next(module for name, module in model.named_modules() if name.startswith("activation_quantizers."))
    quantiser.scale.fill_(float("nan"))
    with pytest.raises(StageError, match=r"scale of `activation_quantizers\..*` is nan"):
        to_onnx(model, (images(2),), tmp_path / "m.onnx")


def test_an_opset_without_per_channel_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="opset 12"):
        to_onnx(quantised(), (images(2),), tmp_path / "m.onnx", opset=12)
    with pytest.raises(UsageError, match="no 16-bit"):
        to_onnx(quantised(a_bits=12), (images(2),), tmp_path / "m.onnx", opset=20)


def test_a_network_that_no_exporter_takes_shows_both_errors(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x.float()).real

    with pytest.raises(StageError) as caught:
        to_onnx(Strange(), (torch.randn(2, 3, 3),), tmp_path / "m.onnx", "float")
    assert "torchscript:" in caught.value.why
    assert "dynamo:" in caught.value.why


@pytest.mark.slow
def test_the_second_exporter_carries_the_markers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> onnx.ModelProto:
        raise RuntimeError("no")

    monkeypatch.setattr("mcomp.deploy.float_export._by_torchscript", broken)
    model, x = fold_batch_norms(quantised(levels=127), (images(2),)).model, images(4)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx", "tensorrt")
    assert lowering.exact
    assert sqnr_db(simulated(model, x), OnnxSession(lowering.path, simulate=True).predict(x)) > 50
    assert export_float.__doc__


def test_openvino_runs_every_convolution_of_the_tensorrt_file_in_integers(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    lowering = to_onnx(quantised(Residual(), levels=127), (images(2),), tmp_path / "m.onnx", "tensorrt")
    runtime = openvino.Core().compile_model(str(lowering.path), "CPU").get_runtime_model()
    facts = [operation.get_rt_info() for operation in runtime.get_ordered_ops()]
    convolutions = [fact for fact in facts if "Convolution" in fact["layerType"].astype(str)]
    assert [fact["runtimePrecision"].astype(str) in ("u8", "i8") for fact in convolutions] == [True] * 3


class Swapped(nn.Module):
    """Only the second exporter takes it: ``mT`` is unknown to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mT)


def test_an_exporter_that_fails_prints_nothing_where_the_other_succeeds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to_onnx(Swapped(), (torch.randn(2, 4, 3),), tmp_path / "m.onnx", "float")
    printed = capfd.readouterr()
    assert "graph(" not in printed.out + printed.err
    assert torch._C._jit_set_onnx_log_enabled.__name__ == "_jit_set_onnx_log_enabled"
