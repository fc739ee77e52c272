from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mcomp.deploy import OnnxSession, to_onnx
from mcomp.deploy.openvino_session import OpenVinoSession, save_ir
from mcomp.errors import BackendMissingError, StageError
from mcomp.quantization import quantize


def test_a_missing_runtime_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.deploy.runtime_package.find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match="ONNX Runtime is not installed") as caught:
        OnnxSession(tmp_path / "m.onnx")
    assert caught.value.exit_code == 7


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(StageError, match=r"m\.onnx"):
        OnnxSession(tmp_path / "m.onnx")


@pytest.mark.parametrize("profile", ["onnxruntime", "openvino"])
def test_a_float_tensor_beside_an_integer_weight_is_not_quantised_unasked(tmp_path: Path, profile: Any) -> None:
    pytest.importorskip(profile)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8)).eval(), torch.randn(4, 6, 64)
    quantised = quantize(model, (x,), scheme="iao", a_bits=32).eval()
    lowering = to_onnx(quantised, (x,), tmp_path / "m.onnx", profile)
    with torch.no_grad():
        expected = quantised(x)
    session = OnnxSession(lowering.path) if profile == "onnxruntime" else OpenVinoSession(lowering.path)
    assert (session.predict(x) - expected).abs().max() <= 1e-5
    (note,) = [note for note in lowering.notes if "2 products" in note]
    assert "unless" in note
    if profile == "openvino":
        import openvino

        pair = save_ir(lowering.path, tmp_path / "m.xml")
        found = openvino.Core().compile_model(pair[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x.numpy()])[0]
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-5
