from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from mcomp.errors import UsageError
from mcomp.models.user_factory import load_factory
from mcomp.stages import registry

PLUGIN = """
from mcomp.stages import Stage, StageResult, register
from neighbour import VALUE


@register
class Own(Stage):
    name = "{name}"
    value = VALUE

    def run(self, ctx, options):
        return StageResult(ctx.model)
"""


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_STAGES", {})
    monkeypatch.setattr(registry, "_entry_points_loaded", True)


def write_plugin(folder: Path, name: str, value: int) -> Path:
    folder.mkdir()
    (folder / "neighbour.py").write_text(f"VALUE = {value}\n")
    (folder / "stages.py").write_text(PLUGIN.format(name=name))
    return folder / "stages.py"


def test_plugins_of_one_file_name_stay_two_modules_with_their_own_neighbours(tmp_path: Path) -> None:
    files = {name: write_plugin(tmp_path / name, name, value) for value, name in enumerate(("one", "two"))}
    for name, file in files.items():
        assert registry.load_file(file) == [name]
    for value, (name, file) in enumerate(files.items()):
        stage = registry.get(name)
        assert stage.__module__.startswith("mcomp_plugin_stages")
        assert sys.modules[stage.__module__].__file__ == str(file.resolve())
        assert stage.value == value  # type: ignore[attr-defined]
    assert registry.load_file(files["one"]) == ["one"], "the same file again is the same module, without a warning"


def test_factories_of_one_file_name_stay_two_modules(tmp_path: Path) -> None:
    made = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "parts.py").write_text(f"VALUE = {value}\n")
        (folder / "net.py").write_text("from parts import VALUE\ndef make(): return VALUE\n")
        made.append(load_factory("net.py:make", folder))
    assert [factory() for factory in made] == [1, 2]
    files = [sys.modules[factory.__module__].__file__ for factory in made]
    assert files == [str((tmp_path / str(value) / "net.py").resolve()) for value in (1, 2)]


def test_a_plugin_that_ends_python_is_refused_and_leaves_no_module(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match=r"leaves.py.*SystemExit"):
        registry.load_file(tmp_path / "leaves.py")
    assert not [name for name in sys.modules if name.startswith("mcomp_plugin_leaves")]


@pytest.mark.parametrize(
    ("value", "said"), [("no_such_module:Stage", "ModuleNotFoundError"), ("pathlib:Path", "not a subclass")]
)
def test_a_broken_package_is_a_warning_not_the_end(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("theirs", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [point])
    with pytest.warns(UserWarning, match=f"stage `theirs` of the package `{value.partition(':')[0]}`.*{said}"):
        assert registry.names() == list(registry.BUILT_IN)


def test_another_package_cannot_take_the_name_of_a_built_in_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("theirs", "mcomp.stages.builtin.train:Train", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [point])
    with pytest.warns(UserWarning, match="`train` is the name of a built-in stage"):
        registry.names()
