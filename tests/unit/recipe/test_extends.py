from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import Diagnostic, RecipeError
from mcomp.recipe import Recipe, render
from mcomp.recipe.composition import MAX_EXTENDS
from mcomp.recipe.overlay import deep, overlay
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, Source, plain
from tests.unit.recipe.samples import FLAGSHIP, HEAD, fault, faults, place, stages


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the flagship in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(FLAGSHIP)
    return tmp_path


def same(one: Recipe, other: Recipe) -> bool:
    return one.lock().partition("\n")[2] == other.lock().partition("\n")[2]


def test_a_recipe_that_only_extends_is_its_base(folder: Path) -> None:
    assert same(Recipe.from_text("extends: base.yaml\n"), Recipe.load("base.yaml"))
    assert same(Recipe.from_text("extends: [base.yaml]\n"), Recipe.load("base.yaml"))


def test_single_values_replace_and_sections_merge(folder: Path) -> None:
    recipe = Recipe.from_text(
        "extends: base.yaml\nname: mine\nvars: {ratio: 0.6}\nmodel: {width: 0.25}\ndata: {batch_size: 32}\n"
    )
    assert (recipe.name, recipe.seed, recipe.model.name) == ("mine", 0, "nin_gc")
    assert recipe.model.kwargs["width"] == 0.25
    assert "num_classes: 10" in recipe.lock()
    assert (recipe.data.batch_size, recipe.data.image_size) == (32, 16)  # type: ignore[attr-defined]
    assert recipe.stages[2].options.ratio == 0.6


def test_another_name_of_a_model_takes_none_of_the_old_ones_options(folder: Path) -> None:
    assert Recipe.from_text("extends: base.yaml\nmodel: {name: nin}\n").model.kwargs.get("width") != 0.5
    assert Recipe.from_text("extends: base.yaml\nmodel: {name: nin_gc}\n").model.kwargs["width"] == 0.5


def test_stages_given_anew_replace_the_list(folder: Path) -> None:
    assert [one.id for one in Recipe.from_text("extends: base.yaml\nvars: {}\nstages: [train]\n").stages] == ["train"]


def test_the_later_of_two_bases_wins(folder: Path) -> None:
    (folder / "one.yaml").write_text("seed: 1\nmetadata: {a: 1, b: {c: 1}}\n")
    (folder / "two.yml").write_text("seed: 2\nmetadata: {b: {d: 2}}\n")
    recipe = Recipe.from_text("extends: [base.yaml, one.yaml, two.yml]\n")
    assert recipe.seed == 2
    assert recipe.metadata == {"a": 1, "b": {"c": 1, "d": 2}}


def test_a_base_read_twice_is_read_once_and_may_be_changed_apart(folder: Path) -> None:
    (folder / "a.yaml").write_text("extends: base.yaml\noverride: {train: {epochs: 1}}\n")
    (folder / "b.yaml").write_text("extends: base.yaml\n")
    recipe = Recipe.from_text("extends: [a.yaml, b.yaml]\n")
    assert recipe.stages[0].options.epochs == 5
    assert [one.name for one in recipe.files] == ["a.yaml", "base.yaml", "b.yaml"]


def test_the_files_of_a_recipe_are_listed_its_own_first(folder: Path) -> None:
    (folder / "mine.yaml").write_text("extends: base.yaml\n")
    recipe = Recipe.load("mine.yaml")
    assert recipe.files == (folder / "mine.yaml", folder / "base.yaml")
    assert recipe.file == folder / "mine.yaml"
    assert recipe.with_set("seed=3").files == recipe.files


def test_a_path_is_relative_to_the_file_that_holds_it(folder: Path) -> None:
    deep_folder = folder / "lib" / "nets"
    deep_folder.mkdir(parents=True)
    text = stages("quantize", "trt_int8: {output: a.plan, calibration: {cache_file: c.bin}}")
    text = text.replace("{name: nin}", '{name: nin, weights: "${start}"}') + "vars: {start: w.pt}\n"
    (deep_folder / "net.yaml").write_text(text)
    recipe = Recipe.from_text("extends: lib/nets/net.yaml\n")
    trt = recipe.stages[1].options
    assert recipe.model.weights == str(deep_folder / "w.pt")
    assert (trt.output, trt.calibration.cache_file) == (str(deep_folder / "a.plan"), str(deep_folder / "c.bin"))
    mine = Recipe.from_text(
        "extends: lib/nets/net.yaml\nvars: {start: v.pt}\noverride: {trt_int8: {calibration: {cache_file: d.bin}}}\n"
    )
    assert mine.model.weights == "v.pt"
    assert Path(mine.stages[1].options.calibration.cache_file) == folder / "d.bin"


def test_a_nested_path_of_a_set_is_relative_to_the_current_folder(folder: Path) -> None:
    (folder / "here").mkdir()
    text = stages("quantize", "trt_int8: {calibration: {samples: 3}}")
    recipe = Recipe.from_text(text, ["stages.trt_int8.calibration.cache_file=c.bin"], base_dir=folder / "here")
    assert recipe.stages[1].options.calibration.cache_file == str(folder / "c.bin")
    assert str(folder / "c.bin") in recipe.lock()
    assert (
        str(folder / "here" / "d.bin")
        in Recipe.from_text(
            stages("quantize", "trt_int8: {calibration: {cache_file: d.bin}}"), base_dir=folder / "here"
        ).lock()
    )


def test_a_set_reaches_what_a_base_holds(folder: Path) -> None:
    recipe = Recipe.from_text("extends: base.yaml\n", ["stages.prune.ratio=0.2", "vars.ratio=0.9", "model.width=0.25"])
    assert (recipe.stages[2].options.ratio, recipe.model.kwargs["width"]) == (0.2, 0.25)
    assert recipe.warnings == []


def test_with_set_and_the_lock_hold_the_composed_recipe(folder: Path) -> None:
    recipe = Recipe.from_text("extends: base.yaml\noverride: {prune: {regular: 4}}\n")
    changed = recipe.with_set("stages.prune.ratio=0.1")
    assert (changed.stages[2].options.ratio, changed.stages[2].options.regular) == (0.1, 4)
    (folder / "base.yaml").unlink()
    assert same(Recipe.from_text(changed.lock()), changed)


@pytest.mark.parametrize("key", ["extends=base.yaml", "drop=[train]", "override.prune.ratio=1", "insert=[]"])
def test_a_set_cannot_compose(folder: Path, key: str) -> None:
    found = fault("extends: base.yaml\n", key)
    assert "cannot be set" in found.message
    assert (found.file, found.column) == ("--set #1", 1)


def test_a_variable_that_a_base_offers_or_uses_is_not_called_unused(folder: Path) -> None:
    (folder / "lib.yaml").write_text(HEAD + "vars: {a: 1, b: 2}\nmetadata: {a: '${a}'}\n")
    recipe = Recipe.from_text("extends: lib.yaml\nvars: {a: 3, c: 4}\nmetadata: {a: 1}\nstages: [train]\n")
    assert [(one.message, one.line) for one in recipe.warnings] == [("variable `c` is never used", 2)]


def test_a_fault_in_a_base_points_into_the_base(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "base.yaml").write_text(FLAGSHIP.replace("regular: 8", "regullar: 8"))
    found = fault("extends: sub/base.yaml\n", name="mine.yaml")
    assert (found.file, *place(found)) == ("sub/base.yaml", 10, 32, 8)
    assert found.label == "did you mean `regular`?"
    assert found.source_line.startswith("  - prune:")


def test_a_value_given_here_for_an_option_there_is_marked_here(folder: Path) -> None:
    found = fault("extends: base.yaml\nvars: {ratio: 7}\n", name="mine.yaml")
    assert (found.file, *place(found)) == ("mine.yaml", 2, 15, 1)
    assert found.hint == "the value is used at base.yaml:10:20"


def test_faults_stand_in_the_order_of_the_files(folder: Path) -> None:
    (folder / "a_base.yaml").write_text(FLAGSHIP.replace("regular: 8", "regular: 0"))
    found = faults("extends: a_base.yaml\ndata: {batch_size: 0}\n", "seed=-1", "device=tpu", name="z.yaml")
    assert [one.file for one in found] == ["z.yaml", "a_base.yaml", "--set #1", "--set #2"]


def test_ten_sets_are_told_in_their_order() -> None:
    sets = [f"stages.train.x{number}=1" for number in range(12)]
    assert [one.file for one in faults(stages("train"), *sets)] == [f"--set #{one}" for one in range(1, 13)]


@pytest.mark.parametrize(
    ("written", "says", "label"),
    [
        ("bsae.yaml", "there is no file", "did you mean `base.yaml`?"),
        ("base", "is no .yaml or .yml file", "did you mean `base.yaml`?"),
        ("base.yalm", "is no .yaml or .yml file", "did you mean `base.yaml`?"),
        ("./base.yml", "there is no file", "did you mean `./base.yaml`?"),
        ("sbu/base.yaml", "there is no file", "did you mean `sub/base.yaml`?"),
        ("sub", "is a folder", ""),
        ("/etc/passwd", "is no .yaml or .yml file", ""),
        ("pipe.yaml", "no regular file", ""),
        ("link.yaml", "leads to `passwd`", ""),
        ("loop.yaml", "cannot read", ""),
        ("large.yaml", "at most 1 MiB", ""),
        ("empty.yaml", "is empty", ""),
        ("https://example.org/base.yaml", "no addresses", ""),
        ('"${where}.yaml"', "cannot use a variable", ""),
        ('"a\\0.yaml"', "part of no file name", ""),
        ("x" * 400 + ".yaml", "cannot read", ""),
    ],
)
def test_a_base_that_cannot_be_read_is_one_fault_where_it_is_named(
    folder: Path, written: str, says: str, label: str
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "base.yaml").write_text(FLAGSHIP)
    os.mkfifo(folder / "pipe.yaml")
    (folder / "link.yaml").symlink_to("/etc/passwd")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "large.yaml").write_bytes(b"#" * 10_000_000)
    (folder / "empty.yaml").write_text("# nothing\n")
    found = fault(f"name: mine\nextends: {written}\noverride: {{prune: {{regular: 4}}}}\n")
    assert (found.code, *place(found)) == ("MC122", 2, 10, len(written))
    assert says in found.message
    assert found.label == label


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_base_without_permission_is_named(folder: Path) -> None:
    (folder / "base.yaml").chmod(0)
    assert "permission denied" in fault("extends: base.yaml\n").message


@pytest.mark.parametrize(("written", "column"), [("3", 10), ("{a: b}", 10), ("[base.yaml, null]", 22), ('""', 10)])
def test_a_base_is_named_by_text(folder: Path, written: str, column: int) -> None:
    found = fault(f"extends: {written}\n")
    assert (found.code, found.line, found.column) == ("MC104", 1, column)


@pytest.mark.parametrize("key", ["extend", "xtends", "extnds", "Extends"])
def test_a_misspelled_extends_is_all_that_is_said(folder: Path, key: str) -> None:
    found = fault(f"{key}: base.yaml\nname: mine\n")
    assert (found.code, *place(found)) == ("MC103", 1, 1, len(key))
    assert found.label == "did you mean `extends`?"


def refused(path: str) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert len(caught.value.diagnostics) == 1
    return caught.value.diagnostics[0]


def test_a_recipe_cannot_extend_itself(folder: Path) -> None:
    (folder / "a.yaml").write_text("extends: a.yaml\n")
    found = refused("a.yaml")
    assert (found.code, found.file, *place(found)) == ("MC123", "a.yaml", 1, 10, 6)


def test_a_circle_is_shown_as_the_way_around_it(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.yaml").write_text("extends: sub/b.yaml\n")
    (folder / "sub" / "b.yaml").write_text("extends: [../base.yaml, ../c.yaml]\n")
    (folder / "c.yaml").write_text("seed: 1\nextends: again.yaml\n")
    (folder / "again.yaml").symlink_to("a.yaml")
    found = refused("a.yaml")
    assert (found.file, found.line, found.column) == ("c.yaml", 2, 10)
    assert found.message.endswith("`a.yaml` → `sub/b.yaml` → `c.yaml` → `again.yaml`")


@pytest.mark.parametrize("files", [MAX_EXTENDS, MAX_EXTENDS + 1])
def test_only_so_many_files_stand_on_one_another(folder: Path, files: int) -> None:
    (folder / "0.yaml").write_text(FLAGSHIP)
    for number in range(1, files + 1):
        (folder / f"{number}.yaml").write_text(f"extends: {number - 1}.yaml\n")
    if files <= MAX_EXTENDS:
        assert len(Recipe.load(f"{files}.yaml").files) == MAX_EXTENDS + 1
        return
    found = refused(f"{files}.yaml")
    assert (found.code, found.file) == ("MC123", "1.yaml")


def test_all_files_together_keep_the_limits_of_one(folder: Path) -> None:
    many = "metadata: [" + "1, " * 6000 + "]\n"
    (folder / "many.yaml").write_text(many)
    assert "10000 values in all" in fault("extends: many.yaml\n" + many).message
    (folder / "again.yaml").write_text("extends: [" + "base.yaml, " * 500 + "]\n")
    assert fault("extends: again.yaml\n").file == "again.yaml"
    (folder / "long.yaml").write_text("seed: 1\n" + "#" * 600_000)
    (folder / "more.yaml").write_text("#" * 600_000 + "\n")
    assert place(fault("extends: [base.yaml, long.yaml, more.yaml]\n")) == (1, 33, 9)


@pytest.mark.parametrize(
    "text",
    [stages(*["train"] * 257), stages("train") + "insert: [{after: train, stages: [" + "train, " * 300 + "]}]\n"],
    ids=["written", "inserted"],
)
def test_a_recipe_of_hundreds_of_stages_is_refused_before_they_are_compared(text: str) -> None:
    found = fault(text)
    assert (found.code, *place(found)) == ("MC123", 4, 1, 6)


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"- a\n", "MC104", 1, 1),
        (b"name: [\n", "MC102", 1, 8),
        (b"name: a\n# \xff\n", "MC101", 2, 3),
        (b"version: 2\nx: 1\n", "MC128", 1, 10),
    ],
)
def test_a_base_that_is_no_recipe_is_shown_where_it_is_not(
    folder: Path, data: bytes, code: str, line: int, column: int
) -> None:
    (folder / "base.yaml").write_bytes(data)
    found = fault("extends: base.yaml\n")
    assert (found.code, found.file, found.line, found.column) == (code, "base.yaml", line, column)


def test_a_base_behind_a_symbolic_link_is_named_so_that_it_is_found(folder: Path) -> None:
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "x" / "bad.yaml").write_text(FLAGSHIP.replace("seed: 0", "sed: 0"))
    (folder / "jump").symlink_to("x/y")
    (folder / "jump" / "mine.yaml").write_text("extends: ../bad.yaml\n")
    found = refused("jump/mine.yaml")
    assert found.file is not None
    assert Path(found.file).samefile(folder / "x" / "bad.yaml")
    assert found.file in render([found])


_MARK = Mark(Source("t", ""), 1, 1)
_LEAVES = st.one_of(st.integers(), st.text(max_size=3), st.booleans()).map(
    lambda value: ScalarNode(value, _MARK, str(value))
)
_KEYS = st.sampled_from(["vars", "model", "data", "metadata", "name", "a", "b"])


def _maps(values: st.SearchStrategy[Node]) -> st.SearchStrategy[MapNode]:
    return st.dictionaries(_KEYS, values, max_size=4).map(
        lambda found: MapNode(_MARK, {key: MapEntry(_MARK, value) for key, value in found.items()})
    )


_NODES: st.SearchStrategy[Node] = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(lambda items: ListNode(items, _MARK)), _maps(inner)),
    max_leaves=12,
)


@given(_maps(_NODES))
def test_nothing_laid_over_a_recipe_and_a_recipe_over_nothing_leave_it(tree: MapNode) -> None:
    empty = MapNode(_MARK)
    assert plain(overlay(tree, empty)) == plain(overlay(empty, tree)) == plain(overlay(tree, tree)) == plain(tree)
    assert plain(deep(tree, empty)) == plain(deep(empty, tree)) == plain(deep(tree, tree)) == plain(tree)


@given(_maps(_NODES), _maps(_NODES))
def test_laying_the_same_over_twice_changes_no_more_than_once(one: MapNode, two: MapNode) -> None:
    assert plain(deep(deep(one, two), two)) == plain(deep(one, two))
    assert plain(overlay(overlay(one, two), two)) == plain(overlay(one, two))
