"""From opset 21 on, ONNX Runtime loads a file with int8 activations only if it has no pairs of its own to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, to_onnx
from mcomp.quantization import calibrate, quantize


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.reader, self.head = kind(16, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.reader(x.flatten(2))[0][:, -1])
        return made


class Moved(nn.Module):
    """A quantised tensor that is also read by layers without a grid, moved about, and given out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tensor = torch.tanh(self.first(x))
        return torch.cat([self.second(tensor), tensor.transpose(2, 3).transpose(2, 3)], 1)


class Given(Moved):
    """One that is given out itself."""

    def forward(self, x: Tensor) -> Any:
        tensor = torch.tanh(self.first(x))
        return tensor.transpose(2, 3), self.second(tensor)


NETWORKS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "moved": Moved,
    "given": Given,
}


@pytest.mark.parametrize("profile", ["openvino", "tensorrt"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_of_a_new_opset_loads_and_computes_as_simulated(tmp_path: Path, network: str, profile: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    model = quantize(NETWORKS[network]().eval(), (x,), levels=127)
    calibrate(model, [x], "minmax")
    lowering = to_onnx(model.eval(), (x,), tmp_path / "m.onnx", profile, opset=21)
    assert onnx.load(lowering.path).opset_import[0].version == 21
    assert any(row.dtype == "int8" for row in lowering.tensors if row.kind == "activation")
    with torch.no_grad():
        expected = model(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = OnnxSession(lowering.path, simulate=True).predict(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (OnnxSession(lowering.path).predict(x) - expected).abs().max() <= 2e-2 * expected.abs().max()
