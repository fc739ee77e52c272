"""One mistake in a shipped recipe: one error, at its characters, with the right name suggested."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from mcomp.cli.main import main
from mcomp.recipe import Recipe
from tests.corpus.mutation import RECIPES, ROOT, Mutant, complaint, mutants

#: Of each family and recipe, in the default suite.
SHARE = 12

_NAMES = [str(file.relative_to(ROOT / "recipes")) for file in RECIPES]


def judged(file: Path, chosen: list[Mutant]) -> tuple[list[str], int, int]:
    """What mcomp answers wrongly; typos of one edit, and those without the right suggestion."""
    wrong, edits, missed = [], 0, 0
    for mutant in chosen:
        said = complaint(mutant, file)
        edits += mutant.one_edit
        missed += said == "no suggestion"
        if said not in (None, "no suggestion"):
            line = mutant.sets[0] if mutant.sets else mutant.text.split("\n")[mutant.line - 1]
            wrong.append(f"{mutant.family}, {mutant.line}:{mutant.column}, {said}: {line.strip()}")
    return wrong, edits, missed


def share(file: Path) -> list[Mutant]:
    families: dict[str, list[Mutant]] = {}
    for mutant in mutants(file):
        families.setdefault(mutant.family, []).append(mutant)
    chance = random.Random(file.name)
    return [one for found in families.values() for one in chance.sample(found, min(SHARE, len(found)))]


@pytest.mark.parametrize("file", RECIPES, ids=_NAMES)
def test_the_recipe_itself_is_valid(file: Path) -> None:
    Recipe.from_text(file.read_text(encoding="utf-8"), trust=True, base_dir=file.parent)


@pytest.mark.parametrize("file", RECIPES, ids=_NAMES)
def test_each_of_a_share_of_mistakes_is_one_error_in_its_place(file: Path) -> None:
    chosen = share(file)
    wrong, edits, missed = judged(file, chosen)
    assert not wrong, f"{len(wrong)} of {len(chosen)}:\n" + "\n".join(wrong[:20])
    assert missed <= 0.05 * edits


@pytest.mark.slow
def test_every_mistake_is_one_error_in_its_place() -> None:
    cases: Counter[str] = Counter()
    wrong: list[str] = []
    edits = missed = 0
    for file in RECIPES:
        found = list(mutants(file))
        cases.update(one.family for one in found)
        of_this = judged(file, found)
        wrong += [f"{file.name}: {one}" for one in of_this[0]]
        edits, missed = edits + of_this[1], missed + of_this[2]
    print(f"\n{cases.total()} mutants of {len(RECIPES)} recipes, {len(wrong)} answered wrongly")
    print(f"{edits} typos of one edit, {100 * (1 - missed / edits):.2f} % with the right suggestion")
    print(", ".join(f"{number} {family}" for family, number in cases.items()))
    assert cases.total() >= 2000
    assert missed <= 0.05 * edits
    assert not wrong, f"{len(wrong)} answered wrongly:\n" + "\n".join(wrong[:40])


def test_one_mistake_of_each_family_ends_the_command_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    families: dict[str, Mutant] = {}
    for one in mutants(ROOT / "recipes" / "lenet_w4a4.yaml"):
        families.setdefault(one.family, one)
    file = tmp_path / "recipe.yaml"
    for family, mutant in families.items():
        file.write_text(mutant.text, encoding="utf-8")
        sets = [word for text in mutant.sets for word in ("--set", text)]
        assert (family, main(["validate", str(file), "--trust", *sets])) == (family, 3)
        assert f":{mutant.line}:{mutant.column}" in capsys.readouterr().err
