from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.recipe import Recipe, versions
from mcomp.recipe.tree import MapNode, ScalarNode
from tests.unit.recipe.samples import FLAGSHIP, fault, place, stages


def _rename_rate(root: MapNode) -> None:
    """Version -1 called `seed` `random`."""
    if "random" in root.entries:
        root.entries["seed"] = root.entries.pop("random")


def _double_seed(root: MapNode) -> None:
    """Version 0 counted seeds in pairs."""
    node = root.get("seed")
    if isinstance(node, ScalarNode) and isinstance(node.value, int):
        node.value *= 2


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MIGRATIONS", {-1: _rename_rate, 0: _double_seed})


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize(
    ("text", "seed"), [("version: -1\nrandom: 3\n", 6), ("version: 0\nseed: 3\n", 6), ("version: 1\nseed: 3\n", 3)]
)
def test_an_older_recipe_is_brought_up_to_date_step_by_step(text: str, seed: int) -> None:
    recipe = Recipe.from_text(text + stages("train").replace("version: 1\n", ""))
    assert (recipe.version, recipe.seed) == (versions.CURRENT, seed)


@pytest.mark.usefixtures("older")
def test_every_file_is_brought_up_to_date_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(FLAGSHIP.replace("version: 1", "version: -1").replace("seed: 0", "random: 4"))
    assert Recipe.from_text("version: 1\nextends: old.yaml\n", base_dir=tmp_path).seed == 8
    assert Recipe.from_text("version: 0\nseed: 1\nextends: old.yaml\n", base_dir=tmp_path).seed == 2


@pytest.mark.usefixtures("older")
def test_a_fault_in_an_older_recipe_points_to_what_was_written() -> None:
    found = fault("version: -1\nrandom: -3\n" + stages("train").replace("version: 1\n", ""))
    assert place(found) == (2, 9, 2)
    assert "got -3" in found.message


def test_a_newer_recipe_asks_for_a_newer_mcomp_and_is_not_judged() -> None:
    found = fault(FLAGSHIP.replace("version: 1", "version: 7").replace("seed", "sede").replace("ratio:", "share:"))
    assert (found.code, *place(found)) == ("MC128", 1, 10, 1)
    assert "upgrade" in found.hint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "a recipe needs the key `version`"),
        ("version: 0\n", "`version` must be `1`, got 0"),
        ("version: true\n", "`version` must be `1`, got true"),
        ("version: 1.0\n", "`version` must be `1`, got 1.0"),
        ('version: "2"\n', '`version` must be `1`, got the text "2"'),
    ],
)
def test_what_is_no_version_is_said_by_validation(line: str, says: str) -> None:
    assert says in fault(FLAGSHIP.replace("version: 1\n", line)).message


def test_the_table_leads_to_the_current_version() -> None:
    assert set(versions.MIGRATIONS) == set(range(min(versions.MIGRATIONS, default=versions.CURRENT), versions.CURRENT))
