"""What a pruning aims at: a share of channels, or MACs, parameters or milliseconds. Importable without torch."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

Kind = Literal["ratio", "macs", "params", "latency_ms"]

#: How near to its target a pruning has to come, relative to it.
TOLERANCE = 0.02

#: From here on a number with a fraction cannot be meant as a share or a percentage.
_PLAINLY_A_COUNT = 1000

_LONGEST = 40  # characters of a value in a message

_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG])", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_EXAMPLES = "write a share such as 0.3, or a count such as `250K` or `1.2G`"


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Attributes:
        kind: of what.
        amount: ``ratio``: share of the channels that goes; ``macs`` and ``params``: what remains; ``latency_ms``:
            milliseconds.
        share: ``amount`` is a share of the whole network's figure, not the figure itself.
    """

    kind: Kind
    amount: float
    share: bool = False

    def goal(self, whole: float) -> float:
        """The figure to reach, in a network that has ``whole`` of it."""
        return self.amount * whole if self.share else self.amount

    def after(self, step: int, steps: int, whole: float) -> Target:
        """Where to be after ``step`` of ``steps``: what is kept shrinks by the same factor in each.

        Args:
            step: from 1.
            steps: of the whole schedule; after the last the target itself is reached.
            whole: the figure of the unpruned network, any number for a ratio.
        """
        done = step / steps
        if self.kind == "ratio":
            return replace(self, amount=1 - (1 - self.amount) ** done)
        return replace(self, amount=whole * (self.goal(whole) / whole) ** done, share=False)


def target_of(given: Mapping[Kind, Any]) -> Target | None:
    """The one target that is given; None where there is none.

    Raises:
        ValueError: there are several, or one makes no sense.
    """
    named = {kind: value for kind, value in given.items() if value is not None}
    if len(named) > 1:
        names = " and ".join(f"`{kind}`" for kind in named)
        raise ValueError(f"{names} exclude one another: a pruning has one target")
    for kind, value in named.items():
        return _target(kind, value)
    return None


def amount_of(value: object) -> tuple[float, bool]:
    """A quantity, and whether it is a share: below 1 it is, above 1 or with a suffix K, M or G it is a count.

    Raises:
        ValueError: it is neither, or 1, which may be meant as either.
    """
    if isinstance(value, str):
        return _counted(value), False
    if not is_number(value):
        raise ValueError(f"{shown(value)} is no quantity; {_EXAMPLES}")
    if not 0 < value < math.inf:
        raise ValueError(f"{value:g} is not above 0; {_EXAMPLES}")
    if value == 1:
        raise ValueError("1 may be meant as a share, which leaves everything, or as a count; write `0.99` or a count")
    if 1 < value < _PLAINLY_A_COUNT and value != int(value):  # above it, say, `0.4 * whole`
        raise ValueError(f"{value:g} is neither a share, which lies below 1, nor a count, which is a whole number")
    return float(value), value < 1


def _counted(text: str) -> float:
    found = _QUANTITY.fullmatch(text.strip())
    if found is not None and float(found[1]):
        return float(found[1]) * _UNITS[found[2].upper()]
    raise ValueError(f"{text!r} is no quantity; {share_of_percent(text) or _EXAMPLES}")


def share_of_percent(text: str) -> str:
    """What a percentage is to be written as; empty where the text is none."""
    found = _PERCENT.fullmatch(text.strip())
    return f"write `{float(found[1]) / 100:g}`" if found is not None else ""


def is_number(value: object) -> TypeGuard[float]:
    """A real number, of numpy too; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value of the wrong kind as a message names it: in full where it is short, else by its kind."""
    text = repr(value)
    return text if len(text) <= _LONGEST and text.isprintable() else f"a {type(value).__name__}"


def _target(kind: Kind, value: object) -> Target:
    if kind in ("macs", "params"):
        try:
            amount, share = amount_of(value)
        except ValueError as error:
            raise ValueError(f"`{kind}`: {error}") from None
        return Target(kind, amount, share)
    if not is_number(value):
        advice = share_of_percent(value) if isinstance(value, str) and kind == "ratio" else ""
        raise ValueError(f"`{kind}` is {shown(value)}; {advice or 'it must be a number'}")
    if kind == "ratio" and not 0 < value < 1:
        raise ValueError(f"`ratio` is {value}; it must lie between 0 and 1, both excluded")
    if not 0 < value < float("inf"):
        raise ValueError(f"`{kind}` is {value}; it must be above 0")
    return Target(kind, float(value))
