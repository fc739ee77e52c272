from __future__ import annotations

import pytest

from mcomp.suggest import closest


@pytest.mark.parametrize("wrong", ["ll", "jr", "lrr", "Lt", "rl"])
def test_a_name_of_two_letters_is_found_from_one_wrong_letter(wrong: str) -> None:
    assert closest(wrong, ["epochs", "lr", "seed"]) == "lr"


@pytest.mark.parametrize(("wrong", "known"), [("ll", ["lr", "la"]), ("zz", ["lr"]), ("x", ["y"])])
def test_a_guess_that_is_none_is_not_made(wrong: str, known: list[str]) -> None:
    assert closest(wrong, known) is None


def test_what_resembles_most_still_wins_over_what_is_one_letter_away() -> None:
    assert closest("epohs", ["epochs", "lr"]) == "epochs"
