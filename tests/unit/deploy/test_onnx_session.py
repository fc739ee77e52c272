from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.deploy import OnnxSession
from mcomp.errors import BackendMissingError, StageError


def test_a_missing_runtime_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.deploy.runtime_package.find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match="ONNX Runtime is not installed") as caught:
        OnnxSession(tmp_path / "m.onnx")
    assert caught.value.exit_code == 7


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(StageError, match=r"m\.onnx"):
        OnnxSession(tmp_path / "m.onnx")
