"""Finding what works by trying."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcomp.pruning.salvage import largest_that_works


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_all_but_the_culprits_are_found(count: int, culprits: set[int]) -> None:
    names = [str(number) for number in range(count)]
    bad = {str(number) for number in culprits}
    assert largest_that_works(names, lambda tried: not tried & bad) == {*names} - bad


@given(st.lists(st.integers(0, 20), unique=True, max_size=12))
def test_of_two_that_do_not_go_together_the_first_stays(order: list[int]) -> None:
    names = [str(number) for number in order]
    found = largest_that_works(names, lambda tried: not {"3", "7"} <= tried)
    assert {"3", "7"} & {*names} == set() or len(found & {"3", "7"}) == 1
    assert {*names} - {"3", "7"} <= found


def test_few_culprits_take_few_trials() -> None:
    names, trials = [str(number) for number in range(128)], []

    def works(tried: set[str]) -> bool:
        trials.append(tried)
        return "77" not in tried

    assert len(largest_that_works(names, works)) == 127
    assert len(trials) <= 2 * 7 + 1
