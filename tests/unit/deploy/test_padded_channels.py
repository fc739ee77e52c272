"""Images with channels that nobody counts: the same answers, from rows of weights that a kernel is fast for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.preparation import prepare
from mcomp.deploy.profiles import PROFILES


def network(channels: int, groups: int = 1, **options: object) -> nn.Module:
    torch.manual_seed(channels)
    first = nn.Conv2d(channels, 12, 3, padding=1, groups=groups, **options)  # type: ignore[arg-type]
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def written(model: nn.Module, images: Tensor, path: Path) -> tuple[onnx.ModelProto, nn.Module]:
    prepared = prepare(model, (images,), "onnxruntime", lambda: [images]).model
    return onnx.load(to_onnx(prepared, (images,), path, "onnxruntime").path), prepared


def channels_read(file: onnx.ModelProto) -> list[int]:
    """Input channels of each convolution's weights, in the order of the graph."""
    stored = {each.name: numpy_helper.to_array(each) for each in file.graph.initializer}
    makers = {node.output[0]: node for node in file.graph.node}
    convolutions = [node for node in file.graph.node if node.op_type == "Conv"]
    return [stored[makers[node.input[1]].input[0]].shape[1] for node in convolutions]


@pytest.mark.parametrize(("channels", "stored"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_the_channels_of_an_image_become_a_multiple_of_four(tmp_path: Path, channels: int, stored: int) -> None:
    images = torch.randn(4, channels, 8, 8)
    file, _ = written(network(channels), images, tmp_path / "m.onnx")
    assert channels_read(file) == [stored, 12]
    assert sum(node.op_type == "Pad" for node in file.graph.node) == (channels != stored)
    assert [entry.dim_value for entry in file.graph.input[0].type.tensor_type.shape.dim[1:]] == [channels, 8, 8]


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_added_channels_change_no_answer(tmp_path: Path, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 8, 8) + shift  # a zero point that is not the middle, too
    model = network(3)
    padded, prepared = written(model, images, tmp_path / "padded.onnx")
    monkeypatch.setitem(PROFILES, "onnxruntime", replace(PROFILES["onnxruntime"], even_inputs=False))
    plain, _ = written(model, images, tmp_path / "plain.onnx")
    assert channels_read(padded)[0] == 4
    assert channels_read(plain)[0] == 3
    answers = [OnnxSession(tmp_path / name).predict(images) for name in ("padded.onnx", "plain.onnx")]
    np.testing.assert_array_equal(*(each.numpy() for each in answers))
    rows = compare_integers(tmp_path / "padded.onnx", prepared, images)
    assert any(row.elements == images.numel() for row in rows)
    assert not any(row.differing for row in rows)


def test_no_rule_is_broken_by_them(tmp_path: Path) -> None:
    written(network(3), torch.randn(4, 3, 8, 8), tmp_path / "m.onnx")
    assert not check_qdq(tmp_path / "m.onnx", "onnxruntime")


def test_a_convolution_in_groups_and_an_image_that_two_layers_read_stay(tmp_path: Path) -> None:
    file, _ = written(network(3, groups=3), torch.randn(4, 3, 8, 8), tmp_path / "groups.onnx")
    assert channels_read(file)[0] == 1

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = torch.relu(self.one(x)) + torch.relu(self.other(x))
            return total

    torch.manual_seed(0)
    file, _ = written(Twice().eval(), torch.randn(4, 3, 8, 8), tmp_path / "twice.onnx")
    assert channels_read(file) == [3, 3]
