"""What a name that is not known was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100  # nobody mistypes a name this long, and comparing is quadratic


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be."""
    names = list(known)
    if not name or len(name) > _LONGEST:
        return None
    folded = {_fold(candidate): candidate for candidate in reversed(names)}
    if _fold(name) in folded:
        return folded[_fold(name)]
    letters = sorted(_fold(name))
    for key, candidate in folded.items():
        if sorted(key) == letters:  # two letters swapped; difflib rates that low
            return candidate
    found = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.6)
    if found:
        return folded[found[0]]
    near = [candidate for key, candidate in folded.items() if len(letters) > 1 and _one_edit(_fold(name), key)]
    return near[0] if len(near) == 1 else None  # of two guesses one would be wrong


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """Up to three known names that resemble ``name``, best first; empty where none does."""
    return [] if len(name) > _LONGEST else difflib.get_close_matches(name, list(known), cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean `x`?``, or nothing."""
    found = closest(name, known)
    return f"did you mean `{found}`?" if found else ""


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in backticks, cut after ``most``."""
    shown = [f"`{name}`" for name in names]
    rest = len(shown) - most
    return ", ".join(shown) if rest <= 0 else f"{', '.join(shown[:most])} and {rest} more"


def _one_edit(name: str, other: str) -> bool:
    """True when one letter more, less or other tells two names of at least two letters apart.

    Two letters swapped are found before; difflib rates the rest low in names as short as ``lr``.
    """
    if min(len(name), len(other)) < 2 or abs(len(name) - len(other)) > 1:
        return False
    same = next((place for place, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), None)
    if same is None:
        return len(name) != len(other)
    shorter, longer = sorted((name, other), key=len)
    skip = same if len(shorter) < len(longer) else same + 1
    return shorter[skip:] == longer[same + 1 :]


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
