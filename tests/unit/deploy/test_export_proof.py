"""An exported graph computes what the network computes, or it is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, float_export, to_onnx
from mcomp.deploy.export_proof import OtherFunctionError, prove_export, reference
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.preparation import prepare
from mcomp.deploy.written_constants import fold_written_constants
from mcomp.errors import StageError
from mcomp.quantization import calibrate, quantize
from tests.unit.deploy.deploy_networks import Residual, chain, images


class Masked(nn.Module):
    """Attention over positions, some of which a mask keeps apart; the mask is written slice by slice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        groups = x.new_zeros((64,))
        groups[:16] = 1
        groups[48:] = 2
        apart = (groups.unsqueeze(0) - groups.unsqueeze(1)).ne(0)
        mask = torch.zeros_like(apart, dtype=x.dtype).masked_fill(apart, -100.0)
        return self.head(((x @ x.transpose(1, 2) + mask).softmax(-1) @ x).mean(1))


def test_a_mask_that_is_written_in_place_reaches_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = images(4)
    model = quantize(Masked().eval(), (x,), scheme="iao", route="export")
    calibrate(model, [x], "minmax")
    lowering = to_onnx(model.eval(), (x,), tmp_path / "m.onnx", "portable")
    rows = compare_integers(lowering.path, model, x, simulate=True)
    assert any("softmax" in row.name for row in rows)
    assert max(row.largest for row in rows) <= 1
    assert sum(row.differing for row in rows) <= 1e-3 * sum(row.elements for row in rows)


def test_folding_written_constants_changes_no_value_and_no_constant_twice() -> None:
    x = images(4)
    model: Any = quantize(Masked().eval(), (x,), scheme="iao", route="export", calibration=[x]).eval()
    expected = model(x)
    assert fold_written_constants(model) >= 1
    assert torch.equal(model(x), expected)
    assert not [node for node in model.graph.nodes if node.name.startswith(("fill", "setitem"))]
    assert fold_written_constants(model) == 0
    assert fold_written_constants(chain()) == 0


def spoilt(export: Any) -> Any:
    def exported(*arguments: Any) -> onnx.ModelProto:
        proto = export(*arguments)
        weight = next(each for each in proto.graph.initializer if len(each.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name))
        return proto

    return exported


def test_a_graph_that_computes_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = chain().eval(), images(4)
    monkeypatch.setattr(float_export, "_by_torchscript", spoilt(float_export._by_torchscript))
    with torch.no_grad():
        expected = model(x)
    found = OnnxSession(to_onnx(model, (x,), tmp_path / "m.onnx", "float").path).predict(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)  # the second exporter's

    monkeypatch.setattr(float_export, "_by_dynamo", spoilt(float_export._by_dynamo))
    with pytest.raises(StageError) as caught:
        to_onnx(model, (x,), tmp_path / "n.onnx", "float")
    assert caught.value.code == "MC430"
    assert caught.value.why.count("computes something else") == 2
    assert not (tmp_path / "n.onnx").exists()


def test_a_prepared_network_is_proven_with_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    proved = float_export.prove_export

    def watched(proto: onnx.ModelProto, *arguments: Any) -> None:
        seen.append(sum(node.domain == "mcomp" for node in proto.graph.node))
        proved(proto, *arguments)

    monkeypatch.setattr(float_export, "prove_export", watched)
    prepared = prepare(chain().eval(), (images(2),), "tensorrt", lambda: [images()])
    to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx", "tensorrt")
    assert seen == [8]  # four weights and the four tensors that they meet


@pytest.mark.parametrize("profile", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("network", [chain, Residual])
def test_a_network_beyond_two_gigabytes_is_exported_without_values_and_written_with_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Any, profile: Any
) -> None:
    prepared = prepare(network().eval(), (images(2),), profile, lambda: [images()])
    usual = to_onnx(prepared.model, (images(2),), tmp_path / "usual.onnx", profile)
    monkeypatch.setattr(float_export, "LARGEST_INSIDE", 0)
    large = to_onnx(prepared.model, (images(2),), tmp_path / "large.onnx", profile)
    assert [row.name for row in large.tensors if row.kind == "weight"] == [
        row.name for row in usual.tensors if row.kind == "weight"
    ]
    assert [value.name for value in onnx.load(large.path).graph.input] == ["input"]
    sessions = [OnnxSession(each.path, simulate=True) for each in (usual, large)]
    assert torch.equal(*[session.predict(images(4)) for session in sessions])


def test_floats_beyond_two_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantize(chain().eval(), (images(2),), calibration=[images()], first_layer_float=False).eval()
    monkeypatch.setattr(float_export, "LARGEST_INSIDE", 0)
    with pytest.raises(StageError, match="larger than 2 GiB") as caught:
        to_onnx(model, (images(2),), tmp_path / "m.onnx", "float")
    assert caught.value.code == "MC433"
    assert not (tmp_path / "m.onnx").exists()


class Chaotic(nn.Module):
    """The logistic map of a layer's output: each of its steps doubles a difference."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.layer, self.steps = nn.Linear(3, 8), steps

    def forward(self, x: Tensor) -> Tensor:
        x = 0.5 + 0.4 * self.layer(x.mean((2, 3))).clamp(-1, 1)
        for _ in range(self.steps):
            x = 4 * x * (1 - x)
        return x


@pytest.mark.parametrize(
    ("steps", "apart", "accepted"), [(0, 5e-4, True), (0, 5e-3, False), (14, 5e-3, True), (14, 0.2, False)]
)
def test_a_network_that_blows_rounding_up_is_held_to_its_own_rounding(steps: int, apart: float, accepted: bool) -> None:
    torch.manual_seed(0)
    model, x = Chaotic(steps).eval(), (images(4),)
    proto, _ = float_export.export_float(lambda _route: (model, None), x)
    expected = [each + apart * each.abs().max() for each in reference(model, x)]
    if accepted:
        prove_export(proto, expected, x, model)
    else:
        with pytest.raises(OtherFunctionError, match="computes something else"):
            prove_export(proto, expected, x, model)
