"""Whatever the text, the answer is a recipe or diagnostics."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.corpus import fuzz_loader as fuzz

few, many = settings(max_examples=80), settings(max_examples=4000)
damaged = given(fuzz.seeds, fuzz.edits)
overridden = given(fuzz.seeds, fuzz.sets)
foreign = given(fuzz.texts | fuzz.patchworks)


@few
@damaged
def test_a_damaged_recipe_is_read_or_diagnosed(file: Path, edits: list[tuple[int, int, str]]) -> None:
    fuzz.answer(fuzz.edited(fuzz.SEEDS[file], edits), folder=file.parent)


@few
@overridden
def test_any_set_is_applied_or_diagnosed(file: Path, sets: list[str]) -> None:
    fuzz.answer(fuzz.SEEDS[file], sets, file.parent)


@few
@foreign
def test_any_text_is_read_or_diagnosed(text: str) -> None:
    fuzz.answer(text)


@pytest.mark.slow
@many
@damaged
def test_thousands_of_damaged_recipes_are_read_or_diagnosed(file: Path, edits: list[tuple[int, int, str]]) -> None:
    fuzz.answer(fuzz.edited(fuzz.SEEDS[file], edits), folder=file.parent)


@pytest.mark.slow
@many
@overridden
def test_thousands_of_sets_are_applied_or_diagnosed(file: Path, sets: list[str]) -> None:
    fuzz.answer(fuzz.SEEDS[file], sets, file.parent)


@pytest.mark.slow
@many
@foreign
def test_thousands_of_texts_are_read_or_diagnosed(text: str) -> None:
    fuzz.answer(text)
