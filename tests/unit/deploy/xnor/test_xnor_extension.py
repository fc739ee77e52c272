from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.deploy.xnor import available_paths, build, extension
from mcomp.errors import BackendMissingError, UsageError
from tests.conftest import ROOT
from tests.unit.deploy.xnor.binary_references import needs_loops


@needs_loops
def test_every_machine_has_the_loops_without_vector_code() -> None:
    assert available_paths()[-1] == "scalar"


def test_the_sources_are_packaged() -> None:
    assert '"deploy/xnor/source/*"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {path.suffix for path in extension.SOURCES.iterdir()} == {".cpp", ".h"}


@needs_loops
def test_what_is_built_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert build() == made


def test_the_folder_of_torch_extensions_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = tmp_path / f"mcomp_xnor_{extension._digest()}.so"
    made.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert build() == made


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendMissingError, match="there is no `no-such-compiler`") as caught:
        build(tmp_path / "fresh")
    assert caught.value.code == "MC620"
    assert "apt install g++" in caught.value.hint
    assert not (tmp_path / "fresh").exists()


def test_without_ninja_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "true").touch(mode=0o755)
    with pytest.raises(BackendMissingError, match="there is no `ninja`") as caught:
        build(tmp_path / "fresh")
    assert "pip install ninja" in caught.value.hint


@needs_loops
@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec c++ --version\necho 'fatal error: no headers'\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BackendMissingError, match="cannot be compiled") as caught:
        build(tmp_path / "fresh")
    assert "fatal error: no headers" in str(caught.value)
    assert list((tmp_path / "fresh").iterdir()) == []


@needs_loops
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendMissingError, match="cannot be written to") as caught:
        build(tmp_path / "file" / "below")
    assert "TORCH_EXTENSIONS_DIR" in caught.value.hint


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    damaged = tmp_path / "mcomp_xnor_0.so"
    damaged.write_bytes(b"not a library")
    with pytest.raises(BackendMissingError, match="cannot be loaded") as caught:
        extension._load(damaged)
    assert "delete that file" in caught.value.hint


@needs_loops
def test_loops_of_another_processor_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "available_paths", lambda: ["scalar"])
    with pytest.raises(UsageError, match="does not have `avx512`") as caught:
        extension.check_path("avx512")
    assert caught.value.hint == "it has: scalar"
