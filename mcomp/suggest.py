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
    return folded[found[0]] if found else None


def nearest(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """Up to ``most`` known names that resemble ``name``, best first; empty where none does."""
    return [] if len(name) > _LONGEST else difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean `x`?``, or nothing."""
    found = closest(name, known)
    return f"did you mean `{found}`?" if found else ""


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in backticks, cut after ``most``."""
    shown = [f"`{name}`" for name in names]
    rest = len(shown) - most
    return ", ".join(shown) if rest <= 0 else f"{', '.join(shown[:most])} and {rest} more"


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
