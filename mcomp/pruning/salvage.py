"""What is left where some groups cannot be pruned, and nothing says which: found by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def largest_that_works(names: Sequence[str], works: Callable[[set[str]], bool]) -> set[str]:
    """As many of ``names`` as work together, those that come first preferred.

    All are tried at once, then halves: with ``k`` culprits among ``n`` that takes about ``2 k log2(n / k)`` trials.

    Args:
        names: in order of preference.
        works: whether these do; may be asked of any set.
    """
    found: set[str] = set()

    def add(part: Sequence[str]) -> None:
        if works(found | {*part}):
            found.update(part)
        elif len(part) > 1:
            middle = len(part) // 2
            add(part[:middle])
            add(part[middle:])

    if names:
        add(names)
    return found
