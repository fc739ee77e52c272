"""Options of a person's own factories are checked against its signature, without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.errors import RecipeError
from mcomp.recipe import Recipe

RECIPE = """\
version: 1
model: {name: "net.py:make", MODEL}
data: {name: "sets.py:read", DATA}
stages: [train]
"""


def recipe(folder: Path, model: str, data: str) -> Recipe:
    (folder / "net.py").write_text("raise SystemExit('it was run')\ndef make(num_classes, width=4): ...\n")
    (folder / "sets.py").write_text("raise SystemExit('it was run')\ndef read(size, seed=0): ...\n")
    text = RECIPE.replace("MODEL", model).replace("DATA", data)
    return Recipe.from_text(text, trust=True, base_dir=folder)


def test_options_that_a_factory_takes_are_valid(tmp_path: Path) -> None:
    assert recipe(tmp_path, "width: 8", "size: 3, batch_size: 8").model.kwargs == {"width": 8}


def test_an_option_that_a_factory_does_not_take_is_refused_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, "widht: 8", "sise: 3")
    found = [(one.code, one.line, one.label) for one in caught.value.diagnostics]
    assert found == [("MC103", 2, "did you mean `width`?"), ("MC103", 3, "did you mean `size`?")]


def test_a_plug_in_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text("x = 1\n\ny = 1 / 0\n")
    text = "version: 1\nplugins: [stage.py]\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [train]\n"
    with pytest.raises(RecipeError, match=r"ZeroDivisionError.*line 3"):
        Recipe.from_text(text, trust=True, base_dir=tmp_path)


def test_a_recipe_is_one_line_at_a_prompt(tmp_path: Path) -> None:
    assert repr(recipe(tmp_path, "width: 8", "size: 3")) == "<Recipe text_: train>"
