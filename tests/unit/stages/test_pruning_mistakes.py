"""Mistakes in the options of the pruning stages: found before anything runs, at the characters that hold them."""

from __future__ import annotations

import pytest

from mcomp.recipe import Recipe
from tests.unit.recipe.samples import fault, place, stages


@pytest.mark.parametrize(
    ("entry", "code", "message", "hint"),
    [
        ("prune: {ratio: «50%»}", "MC104", "`ratio` must be a number", "write `0.5`"),
        ("prune: {macs: «40%»}", "MC104", "'40%' is no quantity; write `0.4`", ""),
        ("prune: {macs: «1.5»}", "MC104", "neither a share, which lies below 1, nor a count", ""),
        ("prune: {params: «1.0»}", "MC104", "write `0.99` or a count", ""),
        ("prune: {macs: «1»}", "MC104", "write `0.99` or a count", ""),
        ("prune: {keep: {conv1: «1.5»}}", "MC104", "`keep.conv1`: 1.5 is neither a share", ""),
        ("prune: {keep: [0.5, «3»]}", "MC104", "`keep[1]`: 3 is neither a share", ""),
        ("prune: {prune: {a: 0.1, b: «1.0»}}", "MC104", "`prune.b`: 1.0 is no share in [0, 1)", ""),
        ("prune: {ratio: 0.5, macs: «0.4»}", "MC104", "`ratio` and `macs` exclude one another", ""),
        ("prune: {keep: {a: 0.5}, prune: {a: «0.5»}}", "MC457", "`a` stands under both", "not both"),
        ('sparsify: {pattern: "2:4", ratio: «0.5»}', "MC104", "which is a ratio by itself", ""),
    ],
)
def test_a_mistake_in_what_goes_is_found_at_the_very_value(entry: str, code: str, message: str, hint: str) -> None:
    first, _, rest = entry.partition("«")
    wrong, _, last = rest.partition("»")
    found = fault(stages(first + wrong + last))
    assert place(found) == (5, 5 + len(first), len(wrong))
    assert found.code == code
    assert message in found.message
    assert hint in found.hint


@pytest.mark.parametrize("amount", ["20k", "57 k", "1.2 g", "250K", "3m", "20000", "0.99"])
def test_a_quantity_is_written_as_the_tables_print_it(amount: str) -> None:
    assert not Recipe.from_text(stages(f"prune: {{params: {amount}}}")).warnings


@pytest.mark.parametrize(
    ("entry", "option"),
    [
        ("sparse_train: {epochs: 1, ratio: «0.3»}", "ratio"),
        ("sparse_train: {epochs: 1, method: group_lasso, rises: «3»}", "rises"),
        ('sparsify: {pattern: "2:4", block: «[»1, 4]}', "block"),
        ('prune: {keep: {"*": 0.5}, ratio: «0.3»}', "ratio"),
        ("prune: {macs: «0.4», keep: [0.5, 0.5]}", "macs"),
    ],
)
def test_an_option_that_decides_nothing_is_warned_of_where_it_stands(entry: str, option: str) -> None:
    first, _, rest = entry.partition("«")
    (found,) = Recipe.from_text(stages(first + rest.replace("»", ""))).warnings
    assert (found.code, found.line, found.column) == ("MC120", 5, 5 + len(first))
    assert f"`{option}`" in found.message
