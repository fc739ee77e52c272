from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp.deploy import OnnxSession


class CalledThreeTimes(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = norm
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(3):
            x = torch.relu(self.norm(self.again(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.mark.parametrize("profile", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(8)], ids=["plain", "norm"])
def test_a_layer_called_several_times_has_one_set_of_integers(profile: str, norm: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 12, 12)
    model = mcomp.quantization.quantize(CalledThreeTimes(norm).eval(), (images,), levels=127)
    mcomp.quantization.calibrate(model, [images])
    folded = mcomp.quantization.fold_batch_norms(model.eval(), (images,)).model
    lowering = mcomp.deploy.to_onnx(folded, (images,), tmp_path / "model.onnx", profile)
    assert len({row.name for row in lowering.tensors if row.kind == "weight"}) == sum(
        row.kind == "weight" for row in lowering.tensors
    )
    with torch.no_grad():
        expected = folded(images)
    found = torch.as_tensor(OnnxSession(lowering.path, simulate=True).predict(images))
    assert float((found - expected).abs().max()) <= 0.02 * float(expected.abs().max())


class Recurrent(nn.Module):
    """Gates of an LSTM read one weight at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.lstm(x)[0][:, -1])
        return scores


@pytest.mark.parametrize("vnni", [True, False], ids=["vnni", "no vnni"])
def test_a_weight_that_several_nodes_read_runs_on_every_processor(
    vnni: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcomp.deploy.onnx_session.cpu_flags", lambda: frozenset({"avx512_vnni"} if vnni else ()))
    torch.manual_seed(0)
    series = torch.randn(16, 5, 8)
    model = mcomp.quantization.quantize(Recurrent().eval(), (series,), scheme="iao")
    mcomp.quantization.calibrate(model, [series])
    lowering = mcomp.deploy.to_onnx(model.eval(), (series,), tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(series)
    found = OnnxSession(lowering.path).predict(series)
    assert float((found - expected).norm() / expected.norm()) < 0.02
