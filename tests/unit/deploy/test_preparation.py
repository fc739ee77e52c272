"""What a target wants beyond what was trained becomes part of the simulated network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.preparation import prepare
from mcomp.deploy.profiles import PROFILES
from mcomp.errors import McompError, StageError, UsageError
from mcomp.metrics import sqnr_db
from mcomp.quantization.calibration import quantizers
from tests.unit.deploy.deploy_networks import Residual, chain, images, quantised


def warmed(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model.train()(images())
    return model.eval()


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_but_the_mean_of_the_output_is_left_float_in_onnxruntime(tmp_path: Path, trained: bool) -> None:
    model = quantised(Residual()) if trained else warmed(Residual())
    prepared = prepare(model, (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx")
    OnnxSession(lowering.path, save_optimized=tmp_path / "optimized.onnx")
    found = kinds(tmp_path / "optimized.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"]) == (3, 1)
    assert not found["Conv"] + found["FusedConv"] + found["Add"] + found["Relu"]
    assert lowering.exact


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("network", [chain, Residual])
def test_a_float_network_prepared_for_a_target_is_what_its_file_computes(
    tmp_path: Path, network: type[nn.Module], profile: str
) -> None:
    model, x = warmed(network()), images(8, seed=2)
    prepared = prepare(model, (x[:2],), profile, lambda: [images()])
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", profile)  # type: ignore[arg-type]
    assert lowering.exact, lowering.notes
    with torch.no_grad():
        simulated, before = prepared.model(x), model(x)
    assert sqnr_db(simulated, OnnxSession(lowering.path, simulate=True).predict(x)) > 25
    assert sqnr_db(before, simulated) > 15


def test_trained_ranges_stay_and_only_new_ones_are_found() -> None:
    model = quantised(Residual())
    prepared = prepare(model, (images(2),), "onnxruntime", lambda: [3 * images()])
    before, after = quantizers(model), quantizers(prepared.model)
    assert prepared.calibrated == prepared.added
    assert set(after) - set(before) == set(prepared.added)
    for name, quantizer in before.items():
        assert quantizer.qparams() == after[name].qparams()


class Projected(nn.Module):
    """A block whose shortcut has a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.first, self.second, self.shortcut = (
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 16, 1),
            nn.Conv2d(16, 16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x)))


def test_of_two_convolutions_in_a_sum_tensorrt_gets_the_shortcut_as_integers(tmp_path: Path) -> None:
    x = images(8)
    prepared = prepare(warmed(Projected()), (x[:2],), "tensorrt", lambda: [x])
    assert prepared.added == ["activation_quantizers.shortcut"]
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", "tensorrt")
    assert lowering.exact
    assert not [each.rule for each in check_qdq(lowering.path) if each.rule in ("P2", "P3")]


class Squeezed(nn.Module):
    """Pools behind an activation, inside a gate, behind a sum, and of what no layer of integers makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.gate, self.way, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(19, 4)
        self.quarter, self.whole = nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.quarter(torch.relu(self.stem(x)))
        wide = nn.functional.silu(self.body(inner))
        wide = inner + wide * torch.sigmoid(self.gate(self.whole(wide)))
        return self.head(torch.cat([self.whole(wide + self.way(wide)), self.whole(x.exp())], 1).flatten(1))


def test_what_average_pools_read_of_integer_layers_is_integer_for_tensorrt(tmp_path: Path) -> None:
    x = images(8)
    prepared = prepare(warmed(Squeezed()), (x[:2],), "tensorrt", lambda: [x])
    assert prepared.added == [f"activation_quantizers.{name}" for name in ("relu", "silu", "add_1")]
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", "tensorrt")
    assert lowering.exact
    assert not [each.rule for each in check_qdq(lowering.path) if each.rule in ("P4", "P11")]
    for row in compare_integers(lowering.path, prepared.model, x, simulate=True):
        assert row.largest <= 1
        assert row.differing <= 1e-3 * row.elements


class Resized(nn.Module):
    def __init__(self, resize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.resize, self.first, self.last = resize, nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.resize(torch.relu(self.first(x))))


@pytest.mark.parametrize("profile", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize(
    "resize",
    [
        nn.Upsample(scale_factor=2),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        partial(nn.functional.interpolate, size=(12, 12)),
    ],
    ids=["Upsample", "UpsamplingNearest2d", "bilinear", "interpolate"],
)
def test_a_resize_between_integer_layers_reads_and_ends_in_integers(
    tmp_path: Path, resize: Callable[[Tensor], Tensor], profile: Any
) -> None:
    x = images(8)
    prepared = prepare(Resized(resize).eval(), (x[:2],), profile, lambda: [x])
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", profile)
    assert lowering.exact
    graph = OnnxGraph(onnx.load(lowering.path))
    (node,) = [each for each in graph.nodes if each.op_type == "Resize"]
    maker = graph.producer(node.input[0])
    assert maker is not None
    assert maker.op_type == "DequantizeLinear"
    assert [each.op_type for each in graph.consumers(node.output[0])] == ["QuantizeLinear"]
    assert not {each.rule for each in check_qdq(lowering.path, profile)} & {"P1", "P7", "P11"}
    for row in compare_integers(lowering.path, prepared.model, x, simulate=True):
        assert row.largest <= 1
        assert row.differing <= 1e-3 * row.elements


def test_targets_that_fuse_a_raw_branch_get_no_grid_more() -> None:
    for profile in ("tensorrt", "portable"):
        assert not prepare(quantised(Residual()), (images(2),), profile, lambda: [images()]).added


def test_without_data_what_stays_float_is_said() -> None:
    prepared = prepare(quantised(Residual()), (images(2),), "onnxruntime")
    assert not prepared.added
    assert any("2 tensors" in note and "no data" in note for note in prepared.notes)


def test_without_data_a_float_model_is_refused() -> None:
    with pytest.raises(StageError, match="have no range"):
        prepare(warmed(chain()), (images(2),), "tensorrt")


class Averaged(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.first, self.pool, self.last = nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(torch.relu(self.first(x))))


@pytest.mark.parametrize(
    ("pool", "convolutions"),
    [
        (nn.AvgPool2d(2), 3),
        (nn.AvgPool2d(3, stride=2, padding=1), 3),
        (nn.AvgPool2d((1, 2)), 3),
        (nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), 2),  # other divisors at the border
        (nn.AvgPool2d(3, stride=2, ceil_mode=True), 2),
    ],
    ids=str,
)
def test_a_mean_of_integers_is_a_convolution_where_every_window_has_one_size(
    tmp_path: Path, pool: nn.Module, convolutions: int
) -> None:
    x = images(4)
    prepared = prepare(Averaged(pool).eval(), (x[:2],), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx")
    assert kinds(lowering.path)["Conv"] == convolutions
    with torch.no_grad():
        simulated = prepared.model(x)
    assert sqnr_db(simulated, OnnxSession(lowering.path).predict(x)) > 30


@pytest.mark.parametrize(
    "batch",
    [torch.randn(2, 4, 8, 8), torch.ones(2, 3, 8, 8, dtype=torch.int64), torch.randn(3)],
    ids=lambda x: str(list(x.shape)),
)
def test_calibration_data_that_the_network_does_not_take_is_refused_with_its_shape(batch: Tensor) -> None:
    with pytest.raises(UsageError, match=re.escape(str(list(batch.shape)))) as caught:
        prepare(warmed(Residual()), (images(2),), "tensorrt", lambda: [images(), batch])
    assert caught.value.code == "MC429"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((chain(), {"x": images(2)}, "m.onnx"), "MC429"),
        ((chain(), (torch.randn(2, 5, 8, 8),), "m.onnx"), "MC429"),
        (("chain", (images(2),), "m.onnx"), "MC427"),
        ((chain(), (images(2),), "nowhere/m.onnx"), "MC445"),
        ((chain(), (images(2),), "."), "MC445"),
        ((chain(), (images(2),), "m.onnx", "npu"), "MC432"),
    ],
    ids=["inputs", "channels", "network", "folder", "is a folder", "profile"],
)
def test_a_wrong_argument_is_refused_with_a_code(tmp_path: Path, arguments: Any, code: str) -> None:
    model, inputs, name, *profile = arguments
    with pytest.raises(McompError) as caught:
        to_onnx(model, inputs, tmp_path / name, *profile)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


class Joined(nn.Module):
    """Two layers whose outputs are laid side by side, one of them read elsewhere too."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(12, 4, 1)
        self.elsewhere = elsewhere

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
        y = self.c(torch.cat([a, b], 1))
        return y + b if self.elsewhere else y


@pytest.mark.parametrize("profile", ["onnxruntime", "openvino", "tensorrt"])
def test_parts_of_a_concatenation_are_quantised_where_they_are_made_on_the_grid_of_the_whole(
    tmp_path: Path, profile: Any
) -> None:
    x = images(8)
    prepared = prepare(warmed(Joined(elsewhere=False)), (x[:2],), profile, lambda: [x])
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", profile)
    graph = OnnxGraph(onnx.load(lowering.path))
    concat = next(node for node in graph.nodes if node.op_type == "Concat")
    scales = {graph.producer(name).input[1] for name in concat.input}  # type: ignore[union-attr]
    assert len(scales) == 1
    assert lowering.exact
    with torch.no_grad():
        expected = prepared.model(x)
    assert sqnr_db(expected, OnnxSession(lowering.path, simulate=True).predict(x)) > 40


def test_a_part_that_is_read_elsewhere_keeps_its_own_way(tmp_path: Path) -> None:
    x = images(8)
    prepared = prepare(warmed(Joined(elsewhere=True)), (x[:2],), "tensorrt", lambda: [x])
    lowering = to_onnx(prepared.model, (x[:2],), tmp_path / "m.onnx", "tensorrt")
    graph = OnnxGraph(onnx.load(lowering.path))
    concat = next(node for node in graph.nodes if node.op_type == "Concat")
    assert [graph.producer(name).op_type for name in concat.input] == ["DequantizeLinear", "Relu"]  # type: ignore[union-attr]
    with torch.no_grad():
        expected = prepared.model(x)
    assert sqnr_db(expected, OnnxSession(lowering.path, simulate=True).predict(x)) > 40
