"""A fake TensorRT in the place of the real one, for each major version that is supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.deploy.tensorrt_engines.fake import Fake, HostDevice


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCOMP_CACHE", str(tmp_path / "cache_home"))


@pytest.fixture(params=["10.16", "11.4"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake(request.param)
    for where in ("build", "engine"):
        monkeypatch.setattr(f"mcomp.deploy.tensorrt.{where}.load_tensorrt", lambda: fake)
    return fake


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    return tmp_path / "m.onnx", tmp_path / "m.plan"


@pytest.fixture
def host() -> HostDevice:
    return HostDevice()
