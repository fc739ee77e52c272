from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from mcomp.engine.keys import KeyMaker, key_of, keyed_options, root_of, stage_seed
from mcomp.engine.own_code import stage_code, user_code
from mcomp.engine.roots import content_of
from mcomp.options import Options
from mcomp.recipe import Recipe
from mcomp.stages import registry
from mcomp.store.digest import sha256_json
from tests.conftest import ROOT


class Inner(Options):
    bits: int = 8
    log_every: int = Field(1, json_schema_extra={"cache": "ignore"})


class Example(Options):
    ratio: float = 0.5
    every: int = Field(1, json_schema_extra={"cache": "ignore"})
    inner: Inner = Inner()
    listed: list[Inner] = Field([])
    named: dict[str, Inner] = Field({})
    teacher: str | None = Field(None, json_schema_extra={"path": True})


def test_an_option_marked_ignore_stays_out_of_the_key_at_any_depth() -> None:
    quiet = Example(every=9, inner=Inner(log_every=9), listed=[Inner(log_every=9)], named={"a": Inner(log_every=9)})
    assert keyed_options(quiet) == keyed_options(Example(listed=[Inner()], named={"a": Inner()}))
    assert keyed_options(Example(inner=Inner(bits=4))) != keyed_options(Example())


def test_the_content_of_a_path_option_stands_for_the_path(tmp_path: Path) -> None:
    for name, text in {"a/t.txt": "one", "b/t.txt": "one", "c/t.txt": "two"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    keyed = {name: sha256_json(keyed_options(Example(teacher=f"{name}/t.txt"), tmp_path)) for name in "abc"}
    assert keyed["a"] == keyed["b"] != keyed["c"]
    folders = {name: sha256_json(keyed_options(Example(teacher=name), tmp_path)) for name in "abc"}
    assert folders["a"] == folders["b"] != folders["c"]
    assert content_of("absent", tmp_path) == "absent"


def test_seeds_differ_by_recipe_seed_stage_and_place() -> None:
    seeds = {stage_seed(0, "train", 0), stage_seed(1, "train", 0), stage_seed(0, "prune", 0), stage_seed(0, "train", 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


RECIPE = """\
version: 1
model: {name: lenet}
data: {name: synthetic, samples: 60}
stages: [{train: {epochs: 1}}, {prune: {ratio: 0.4}}]
"""


def test_version_and_digest_are_recorded_beside_the_key_in_a_release_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.engine.code_digest.is_released", lambda package="mcomp": True)
    recipe = Recipe.from_text(RECIPE)
    keys = KeyMaker(recipe, root_of(recipe, cache_dir=None, code_cache=None))
    first, second = recipe.stages
    preimage = keys.preimage(first, None, {})
    assert preimage["code"] == {"kind": "release", "version": 1}
    recorded = keys.recorded(first, preimage)
    assert recorded.keys() == {"code", "measuring", "data.code", "upstream.model.code"}
    assert recorded["code"]["version"] == 1
    assert "mcomp.training.loop" in recorded["code"]["files"]
    assert recorded["code"]["digest"] not in str(preimage)
    assert "upstream.model.code" not in keys.recorded(second, keys.preimage(second, "a" * 64, {}))


def test_strict_code_puts_the_digest_into_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.engine.code_digest.is_released", lambda package="mcomp": True)
    recipe = Recipe.from_text(RECIPE)
    root = root_of(recipe, cache_dir=None, code_cache=None, strict_code=True)
    keys = KeyMaker(recipe, root, strict_code=True)
    preimage = keys.preimage(recipe.stages[0], None, {})
    for code in (preimage["code"], preimage["measuring"], root.data["code"], root.model["code"]):
        assert code["kind"] == "tokens"
    plain = KeyMaker(recipe, root_of(recipe, cache_dir=None, code_cache=None))
    assert key_of(plain.preimage(recipe.stages[0], None, {})) != key_of(preimage)


def test_the_record_beside_a_key_stays_small() -> None:
    recipe = Recipe.from_text(RECIPE)
    keys = KeyMaker(recipe, root_of(recipe, cache_dir=None, code_cache=None))
    preimage = keys.preimage(recipe.stages[0], None, {})
    assert len(str(keys.recorded(recipe.stages[0], preimage))) < 10_000


TYPED = """
class Typed:
    version = 1
    class Inner:
        def f(self): return {WORD!r} in {"a", "b", "c"}
    @classmethod
    def run(cls, ctx): return [x for x in (1, 2)]
"""


def typed(word: str) -> type:
    names: dict[str, type] = {}
    exec(TYPED.replace("{WORD!r}", repr(word)), {"__name__": "notebook"}, names)
    return names["Typed"]


def test_a_stage_typed_into_a_notebook_is_keyed_by_what_it_does() -> None:
    assert stage_code(typed("a")).keyed() == stage_code(typed("a")).keyed()
    assert stage_code(typed("a")).keyed() != stage_code(typed("b")).keyed()
    assert stage_code(typed("a")).keyed()["kind"] == "interactive"


def test_its_digest_is_the_same_in_every_process() -> None:
    source = "from tests.unit.engine.test_keys import stage_code, typed\nprint(stage_code(typed('a')).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", source],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {stage_code(typed("a")).digest}


def test_a_factory_in_a_package_counts_the_package_and_a_file_its_neighbours(tmp_path: Path) -> None:
    for name, text in {
        "nets/__init__.py": "",
        "nets/deep/__init__.py": "",
        "nets/deep/made.py": "from ..parts import x\nfrom nets import more\n",
        "nets/parts.py": "",
        "nets/more.py": "",
        "alone.py": "import beside\n",
        "beside.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    deep = user_code(tmp_path / "nets" / "deep" / "made.py", "nets.deep.made:build")
    assert set(deep.files) == {"nets", "nets.deep", "nets.deep.made", "nets.parts", "nets.more"}
    assert set(user_code(tmp_path / "alone.py", "alone:build").files) == {"alone", "beside"}
    assert set(user_code(tmp_path / "alone.py", "alone.py:build").files) == {"alone", "beside"}


def test_an_installed_module_does_not_count_its_neighbours(tmp_path: Path) -> None:
    home = tmp_path / "site-packages"
    home.mkdir()
    (home / "one.py").write_text("import two\n")
    (home / "two.py").write_text("")
    assert set(user_code(home / "one.py", "one:build").files) == {"one"}


def test_the_code_of_a_built_in_stage_holds_no_other_room_than_it_uses() -> None:
    for name in registry.BUILT_IN:
        files = stage_code(registry.get(name)).files
        assert not [file for file in files if file.startswith(("mcomp.cli", "mcomp.report", "mcomp.recipe"))], name


CELL = """
import functools
from mcomp.stages import Stage, StageResult, Traits

FACTOR = 1
TABLE = {"a": [1, 2]}
LOSSES = {"x": lambda value: value * 1}

def helper():
    return inner() + 1

def inner():
    return 1

@functools.cache
def slow():
    return 1

class Base(Stage):
    def figure(self):
        return 1

class Kept:
    def __init__(self, depth):
        self.depth = depth
    def __add__(self, other):
        return 1

KEPT = Kept(1)

class NB(Base):
    name, version = "nb", 1
    traits = Traits(metrics={"figure"})
    attribute = 1
    def run(self, ctx, options):
        model = ctx.model
        used = FACTOR, helper(), TABLE, LOSSES, slow(), KEPT, model
        return StageResult(model=model, metrics={"figure": self.figure()})
"""


def cell(monkeypatch: pytest.MonkeyPatch, old: str = "", new: str = "", before: str = "") -> Any:
    """The stage of a notebook's cell, typed anew."""
    assert old in CELL
    module = types.ModuleType("cell")
    monkeypatch.setitem(sys.modules, "cell", module)
    exec(before + (CELL.replace(old, new) if old else CELL), module.__dict__)
    return stage_code(module.NB)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 1", "FACTOR = 2"),
        ("[1, 2]", "[1, 3]"),
        ("value * 1", "value * 2"),
        ("inner() + 1", "inner() + 2"),
        ("def inner():\n    return 1", "def inner():\n    return 2"),
        ("def slow():\n    return 1", "def slow():\n    return 2"),
        ("def figure(self):\n        return 1", "def figure(self):\n        return 2"),
        ("attribute = 1", "attribute = 2"),
        ("Kept(1)", "Kept(2)"),
        ("other):\n        return 1", "other):\n        return 2"),
        ("self.depth = depth", "self.depth = -depth"),
    ],
)
def test_whatever_a_typed_stage_reaches_counts(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    first, again, changed = cell(monkeypatch), cell(monkeypatch), cell(monkeypatch, old, new)
    assert first.unsure == ""
    assert first.keyed() == again.keyed() != changed.keyed()


def test_what_a_typed_stage_does_not_reach_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cell(monkeypatch)
    assert first.keyed() == cell(monkeypatch, before="model = __import__('threading').Lock()\nother = 1\n").keyed()


def test_the_persons_own_modules_count_behind_a_typed_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for number in (1, 2):
        (tmp_path / "typed_side.py").write_text(f"def f():\n    return {number}\n")
        monkeypatch.delitem(sys.modules, "typed_side", raising=False)
        one = cell(monkeypatch, "return inner() + 1", "import typed_side\n    return typed_side.f()")
        two = cell(monkeypatch, "FACTOR = 1", "from typed_side import f as FACTOR")
        digests += [one.digest, two.digest]
    assert len(set(digests)) == 4


def test_a_typed_stage_with_a_live_object_is_never_cached_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open(tmp_path / "f", "w") as file:
        monkeypatch.setattr("builtins.FILE", file, raising=False)
        codes = [cell(monkeypatch, "KEPT = Kept(1)", "KEPT = FILE") for _ in range(2)]
    assert codes[0].keyed() != codes[1].keyed()
    assert codes[0].unsure == "`KEPT` (TextIOWrapper)"


def test_no_stages_code_holds_what_only_foretells() -> None:
    for name in registry.BUILT_IN:
        files = stage_code(registry.get(name)).files
        beside = {"mcomp.stages.forecast", "mcomp.pruning.bounds", "mcomp.pruning.cost_form", "mcomp.suggest"}
        assert not beside & files.keys(), name
