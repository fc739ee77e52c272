from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mcomp.cli.main import main
from mcomp.deploy.formats.export import export
from mcomp.deploy.openvino_session import OpenVinoSession
from mcomp.deploy.runtime_package import absent, load_runtime
from mcomp.errors import BackendMissingError

INT8 = "openvino_int8: {calibration: {samples: 16}}"
RECIPE = """\
version: 1
name: odd
model: {name: nin, width: 0.125, num_classes: 10}
data: {name: digits, image_size: 16}
stages:
  - onnx_int8: {calibration: {samples: 16}}
  - STAGE
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO that lies there and does not load."""
    (tmp_path / "site" / "openvino").mkdir(parents=True)
    (tmp_path / "site" / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: no such file')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("broken")
def test_what_an_import_fails_with_is_told_and_not_that_the_package_is_missing(tmp_path: Path) -> None:
    assert absent("openvino") == ""
    for call in (
        lambda: load_runtime("openvino"),
        lambda: OpenVinoSession(tmp_path / "any.xml"),
        lambda: export(None, None, tmp_path / "any", "openvino"),
    ):
        with pytest.raises(BackendMissingError, match="importing it fails") as caught:
            call()
        assert caught.value.why == "ImportError: libtbb.so.12: no such file"


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("stage", [INT8, "export: {formats: [openvino]}"])
def test_a_recipe_is_refused_before_it_runs_with_what_the_import_said(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = apply(stage, tmp_path, capsys)
    assert code == BackendMissingError.exit_code
    assert "libtbb.so.12" in said
    assert not (tmp_path / "store" / "objects").exists(), "no stage ran"


@pytest.mark.parametrize(
    ("stage", "package"),
    [(INT8, "openvino"), ("export: {formats: [openvino]}", "openvino"), ("export: {formats: [mnn]}", "mnn")],
)
def test_a_missing_extra_is_named_with_the_exit_code_of_missing_runtimes(
    stage: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for home in ("deploy.runtime_package", "deploy.formats.names", "stages.builtin.openvino_int8"):
        monkeypatch.setattr(f"mcomp.{home}.find_spec", lambda name: None if name in ("openvino", "MNN") else True)
    code, said = apply(stage, tmp_path, capsys)
    assert code == BackendMissingError.exit_code
    assert f"pip install 'mcomp[{package}]'" in said
    assert not (tmp_path / "store" / "objects").exists(), "no stage ran"


def apply(stage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    recipe = folder / "odd.yaml"
    recipe.write_text(RECIPE.replace("STAGE", stage))
    code = main(["apply", str(recipe), "--store", str(folder / "store")])
    return code, capsys.readouterr().err
