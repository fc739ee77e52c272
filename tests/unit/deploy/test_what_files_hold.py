from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcomp
from mcomp.deploy import OnnxSession, to_onnx
from mcomp.errors import McompError, UsageError
from tests.unit.deploy.deploy_networks import Residual, images, quantised


class WithDropout(nn.Module):
    """Drops nothing, in the way that a rewritten attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.0, training=True)


def test_dropout_is_no_part_of_a_file(tmp_path: Path) -> None:
    lowering = to_onnx(WithDropout().eval(), (images(2),), tmp_path / "model.onnx", "float")
    assert "Dropout" not in {node.op_type for node in onnx.load(lowering.path).graph.node}


def test_a_file_without_integers_says_so(tmp_path: Path) -> None:
    lowering = to_onnx(Residual().eval(), (images(2),), tmp_path / "model.onnx", "tensorrt")
    assert any("nothing of this model is quantised" in note for note in lowering.notes)
    assert not any(
        "nothing" in note for note in to_onnx(quantised(Residual()), (images(2),), tmp_path / "q.onnx").notes
    )


class Counting(nn.Linear):
    counts_bits = True


def test_layers_that_count_bits_are_in_no_file(tmp_path: Path) -> None:
    model, x = nn.Sequential(Counting(4, 2)).eval(), torch.randn(2, 4)
    with pytest.raises(UsageError, match="counts bits"):
        to_onnx(model, (x,), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="counts bits"):
        mcomp.deploy.export(model, x, tmp_path / "model", "torchscript")
    with pytest.raises(McompError, match="counts bits"):
        mcomp.save_model(model, tmp_path / "model", (x,))
    assert not list(tmp_path.iterdir())


def test_a_session_tells_whether_it_computes_in_float(tmp_path: Path) -> None:
    path = to_onnx(quantised(Residual()), (images(2),), tmp_path / "q.onnx").path
    assert OnnxSession(path, simulate=True).simulated
    assert not OnnxSession(path).simulated
