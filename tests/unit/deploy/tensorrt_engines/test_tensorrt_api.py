from __future__ import annotations

import re
from pathlib import Path

import pytest

import mcomp.deploy.tensorrt
from mcomp.deploy.tensorrt import api
from mcomp.errors import BackendMissingError
from tests.unit.deploy.tensorrt_engines.fake import TABLE

SOURCE = "\n".join(path.read_text() for path in sorted(Path(mcomp.deploy.tensorrt.__path__[0]).glob("*.py")))
REMOVED_IN_11 = (
    "int8_calibrator", "IInt8", "set_dynamic_range", "BuilderFlag", "EXPLICIT_BATCH", "max_workspace_size",
    "build_engine(network", "execute_async_v2", "platform_has_fast", "num_bindings", "get_binding", "max_batch_size",
    "device_memory_size", "CalibrationAlgoType", "set_output_type",
)  # fmt: skip


@pytest.mark.parametrize("path", api.USED_API)
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_every_name_we_use_exists_in_both_majors(version: str, path: str) -> None:
    owner, _, member = path.partition(".")
    known = TABLE[version]
    if not member:
        assert owner in known["top_level"] or owner in known["classes"]
    elif owner in known["classes"]:
        assert member in known["classes"][owner]
    else:
        assert owner in known["top_level"]


def test_every_attribute_in_the_source_is_declared_as_used() -> None:
    declared = set(api.USED_API)
    found = re.findall(r"\btrt\.([A-Z]\w+)(?:\.([A-Z]\w*))?", SOURCE)
    assert len(found) > 10
    for owner, member in found:
        assert owner in {path.partition(".")[0] for path in declared}
        assert not member or f"{owner}.{member}" in declared


def test_nothing_that_tensorrt_11_removed_is_used() -> None:
    assert [name for name in REMOVED_IN_11 if name in SOURCE] == []


def importing(monkeypatch: pytest.MonkeyPatch, result: object, version: str | None) -> list[str]:
    asked: list[str] = []

    def load(name: str) -> object:
        asked.append(name)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(api.importlib, "import_module", load)
    monkeypatch.setattr(api, "installed_version", lambda: version)
    return asked


@pytest.mark.parametrize(
    ("result", "version", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'"), None, "TensorRT is not installed"),
        (ImportError("libnvonnxparser.so.11: cannot open"), "11.4.0", r"not importable: libnvonnxparser\.so\.11"),
        (type("Old", (), {"__version__": "8.6.1"}), None, r"TensorRT 8\.6\.1 is too old"),
    ],
)
def test_each_way_of_missing_tensorrt_says_which(
    monkeypatch: pytest.MonkeyPatch, result: object, version: str | None, message: str
) -> None:
    importing(monkeypatch, result, version)
    with pytest.raises(BackendMissingError, match=message) as caught:
        api.load_tensorrt()
    assert caught.value.exit_code == 7
    assert caught.value.hint


def test_tensorrt_8_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = importing(monkeypatch, None, "8.6.1")
    with pytest.raises(BackendMissingError, match=r"TensorRT 8\.6\.1 is too old: .* need 10 or newer"):
        api.load_tensorrt()
    assert asked == []


@pytest.mark.parametrize(
    ("version", "gpu", "buffers", "expected"),
    [
        (None, None, "torch", "TensorRT is not installed"),
        ("8.6.1", {"name": "H200"}, "torch", "TensorRT 8.6.1 is too old"),
        ("11.4.0", {"name": "H200"}, "pycuda", "pycuda is not installed"),
        ("11.4.0", None, "torch", "no NVIDIA GPU answers"),
        ("11.4.0", {"name": "H200"}, "torch", ""),
    ],
)
def test_what_an_engine_misses_is_known_without_an_import(
    monkeypatch: pytest.MonkeyPatch, version: str | None, gpu: object, buffers: str, expected: str
) -> None:
    monkeypatch.setattr(api, "installed_version", lambda: version)
    monkeypatch.setattr(api, "find_spec", lambda name: None)
    monkeypatch.setattr("mcomp.training.hardware.gpu", lambda index=0: gpu)
    assert api.absent_engine(buffers) == expected


def test_a_fault_of_ours_is_not_taken_for_a_missing_driver() -> None:
    def factory() -> None:
        raise TypeError("missing argument")

    with pytest.raises(TypeError):
        api.make(factory)
