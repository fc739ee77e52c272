from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mcomp
from mcomp.deploy import to_onnx
from mcomp.errors import BackendMissingError, StageError
from tests.unit.deploy.deploy_networks import Residual, images, quantised

pytest.importorskip("openvino")

from mcomp.deploy.openvino_session import OpenVinoSession, save_ir


def test_every_convolution_of_its_profile_runs_in_integers_and_answers_as_simulated(tmp_path: Path) -> None:
    model = quantised(Residual())
    path = to_onnx(model, (images(2),), tmp_path / "model.onnx", "openvino").path
    session = OpenVinoSession(path)
    integer, multiplying = session.integer_layers()
    assert integer == multiplying > 3
    with torch.no_grad():
        expected = model(images(5))
    found = session.predict(images(5))
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_its_own_pair_of_files_answers_as_the_onnx_file(tmp_path: Path) -> None:
    path = to_onnx(quantised(Residual()), (images(2),), tmp_path / "model.onnx", "openvino").path
    pair = save_ir(path, tmp_path / "model.xml")
    assert all(one.is_file() for one in pair)
    assert torch.equal(OpenVinoSession(pair[0]).predict(images(3)), OpenVinoSession(path).predict(images(3)))


def test_a_float_file_multiplies_no_integers(tmp_path: Path) -> None:
    path = to_onnx(Residual().eval(), (images(2),), tmp_path / "model.onnx", "float").path
    assert OpenVinoSession(path).integer_layers()[0] == 0


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(StageError, match="OpenVINO cannot load"):
        OpenVinoSession(tmp_path / "text.onnx")
    monkeypatch.setattr("mcomp.deploy.runtime_package.find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match=r"pip install 'mcomp\[openvino\]'"):
        OpenVinoSession(tmp_path / "text.onnx")


def test_the_stage_measures_in_openvino() -> None:
    data = mcomp.data.load(name="synthetic", num_classes=3, samples=90, image_size=12)
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    result = mcomp.stages.openvino_int8(model, data=data, calibration={"samples": 16}, latency_runs=2)
    assert result.metrics["top1_backend"] == result.metrics["latency_backend"] == "openvino"
    assert result.metrics["integer_layers"] == result.metrics["multiplying_layers"] > 0
    assert {"model.openvino.onnx", "model.xml", "model.bin"} <= {*result.files}
