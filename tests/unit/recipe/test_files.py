from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mcomp.errors import Diagnostic, RecipeError
from mcomp.recipe import Recipe
from mcomp.recipe.diagnostics import render
from mcomp.recipe.loader import MAX_BYTES
from tests.unit.recipe.samples import FLAGSHIP, fault, place, stages

_PLUGIN = """\
from mcomp.stages.base import Stage, StageOptions, StageResult, Traits
from mcomp.stages.registry import register


@register
class Mine(Stage):
    name = "mine"

    class Options(StageOptions):
        strength: int = 1

    def run(self, ctx, options):
        return StageResult(ctx.model)
"""


def refused(path: Path | str, **options: object) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert len(caught.value.diagnostics) == 1
    return caught.value.diagnostics[0]


def test_a_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "flagship.yaml").write_text(FLAGSHIP)
    found = refused(tmp_path / "flagshp.yaml")
    assert (found.code, found.line) == ("MC101", None)
    assert "flagship.yaml" in found.hint
    assert "error[MC101]: there is no file" in render([found])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no" in refused(tmp_path / "no" / "r.yaml").hint


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    found = refused(tmp_path)
    assert "is a folder" in found.message
    assert "a.yaml" in found.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(FLAGSHIP)
    file.chmod(0)
    assert "permission denied" in refused(file).message


def test_a_file_of_more_than_a_megabyte_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("#" * (1024 * 1024 + 1))
    assert "1 MiB" in refused(file).message


@pytest.mark.parametrize(
    ("data", "says", "where"),
    [
        ("a: é\nb: ü\n".encode() + b"c: ab\xff\n", "byte 0xFF is not UTF-8", (3, 6, 1)),
        (b"\xff\xfe" + "a: 1".encode("utf-16-le"), "is UTF-16", (None, None, 1)),
        (b"\x00\x00\xfe\xff", "is UTF-32", (None, None, 1)),
    ],
)
def test_other_encodings_are_named(
    tmp_path: Path, data: bytes, says: str, where: tuple[int | None, int | None, int]
) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(data)
    found = refused(file)
    assert says in found.message
    assert place(found) == where


def test_a_byte_order_mark_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + FLAGSHIP.encode())
    assert [one.code for one in Recipe.load(file).warnings] == ["MC101"]


def test_diagnostics_show_the_path_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("version: 2")
    with pytest.raises(RecipeError) as caught:
        Recipe.load("./r.yaml")
    assert {one.file for one in caught.value.diagnostics} == {"./r.yaml"}


def test_a_recipe_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my recipe.v2.yaml"
    file.write_text(stages("train"))
    assert Recipe.load(file).name == "my_recipe.v2"


def test_a_plugin_needs_trust_and_its_stages_are_not_called_unknown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN)
    text = "plugins: [./mine.py]\n" + stages("train", "mine")
    found = fault(text, base_dir=tmp_path)
    assert (found.code, *place(found)) == ("MC114", 1, 11, 9)
    assert "runs code: pass --trust" in found.message


def test_a_trusted_plugin_is_a_stage_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN)
    text = "plugins: [./mine.py]\n" + stages("train", "mine: {strength: 2}")
    recipe = Recipe.from_text(text, trust=True, base_dir=tmp_path)
    assert recipe.stages[1].options.strength == 2
    assert recipe.plugins == [tmp_path / "mine.py"]
    again = Recipe.from_text(recipe.lock(), trust=True)
    assert again.stages[1].options.strength == 2
    found = fault(text.replace("strength", "strengh"), trust=True, base_dir=tmp_path)
    assert found.label == "did you mean `strength`?"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "registers no stage"),
        ("def", "SyntaxError"),
        (None, "there is no file"),
    ],
)
def test_a_plugin_that_fails_is_a_fault_of_the_recipe(tmp_path: Path, code: str | None, says: str) -> None:
    if code is not None:
        (tmp_path / "bad.py").write_text(code)
    found = fault("plugins: [bad.py]\n" + stages("train"), trust=True, base_dir=tmp_path)
    assert (found.code, *place(found)) == ("MC115", 1, 11, 6)
    assert says in found.message


def test_a_plugin_that_replaces_a_stage_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN.replace('"mine"', '"train"'))
    recipe = Recipe.from_text("plugins: [mine.py]\n" + stages("train"), trust=True, base_dir=tmp_path)
    assert "replaced" in recipe.warnings[0].message


@pytest.mark.parametrize("section", ["model", "data"])
def test_user_code_needs_a_file_and_trust(tmp_path: Path, section: str) -> None:
    name = "nin" if section == "model" else "digits"
    text = stages("train").replace(f"{{name: {name}}}", '{name: "my.py:make", depth: 3}')
    assert fault(text, base_dir=tmp_path, trust=True).code == "MC115"
    (tmp_path / "my.py").write_text("def make(**options): ...")
    assert fault(text, base_dir=tmp_path).code == "MC114"
    recipe = Recipe.from_text(text, base_dir=tmp_path, trust=True)
    assert getattr(recipe, section).name == "my.py:make"
    assert f"{tmp_path}/my.py:make" in recipe.lock()


def test_a_tilde_is_the_persons_home_in_the_recipe_and_in_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "mine.py").write_text(_PLUGIN)
    (home / "net.py").write_text("def make(**options): ...")
    text = (
        "version: 1\nplugins: [~/mine.py]\nmodel: {name: '~/net.py:make', weights: ~/net.pt}\n"
        "data: {name: image_folder, root: ~/photos}\nstages:\n  - train\n  - mine\n"
    )
    recipe = Recipe.from_text(text, trust=True, base_dir=tmp_path)
    assert recipe.plugins == [home / "mine.py"]
    assert recipe.model.name == f"{home}/net.py:make"
    assert recipe.model.weights == f"{home}/net.pt"  # type: ignore[attr-defined]
    assert recipe.data.root == f"{home}/photos"  # type: ignore[attr-defined]
    sets = ["data.root=~/other", "model.weights=~/other.pt"]
    changed = Recipe.from_text(text, sets, trust=True, base_dir=tmp_path)
    assert changed.data.root == f"{home}/other"  # type: ignore[attr-defined]
    assert changed.model.weights == f"{home}/other.pt"  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_that_nobody_writes_to_is_an_empty_recipe(tmp_path: Path) -> None:
    pipe = tmp_path / "r.yaml"
    os.mkfifo(pipe)
    with pytest.raises(RecipeError, match="the recipe is empty"):
        Recipe.load(pipe)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="pipes that have a path")
def test_a_pipe_is_read_to_its_end_however_long_its_writer_takes() -> None:
    ours, theirs = os.pipe()
    begun = threading.Event()

    def write() -> None:
        with open(theirs, "w") as stream:
            begun.wait()
            for line in stages("train", "quantize").splitlines(keepends=True):
                stream.write(line)
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    threading.Timer(0.05, begun.set).start()  # nothing is there yet when the recipe is opened
    try:
        recipe = Recipe.load(f"/dev/fd/{ours}")
    finally:
        begun.set()
        writer.join()
        os.close(ours)
    assert [one.id for one in recipe.stages] == ["train", "quantize"]


@pytest.mark.parametrize("text", ["x" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2 + 1), "\ud800" * MAX_BYTES])
def test_a_text_in_memory_is_held_to_the_size_of_a_file(text: str) -> None:
    found = fault(text)
    assert (found.code, "larger than 1 MiB" in found.message) == ("MC101", True)
