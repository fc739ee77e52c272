"""What a pruning aims at: a share of channels, or MACs, parameters or milliseconds. Importable without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["ratio", "macs", "params", "latency_ms"]

#: How near to its target a pruning has to come, relative to it.
TOLERANCE = 0.02

_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG])")


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


def target_of(given: Mapping[Kind, float | str | None]) -> Target | None:
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


def amount_of(value: float | str) -> tuple[float, bool]:
    """A quantity, and whether it is a share: below 1 it is, from 1 on or with a suffix K, M or G it is a count.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        found = _QUANTITY.fullmatch(value.strip())
        if found is None or float(found[1]) == 0:
            raise ValueError(
                f"{value!r} is no quantity; write a share such as 0.3, or a count such as `250K` or `1.2G`"
            )
        return float(found[1]) * _UNITS[found[2]], False
    if not 0 < value < float("inf"):
        raise ValueError(f"{value:g} is not above 0; write a share such as 0.3, or a count such as `250K` or `1.2G`")
    return float(value), value < 1


def _target(kind: Kind, value: float | str) -> Target:
    if kind in ("macs", "params"):
        amount, share = amount_of(value)
        return Target(kind, amount, share)
    if isinstance(value, str):
        raise ValueError(f"`{kind}` is {value!r}; it must be a number")
    if kind == "ratio" and not 0 < value < 1:
        raise ValueError(f"`ratio` is {value}; it must lie between 0 and 1, both excluded")
    if not 0 < value < float("inf"):
        raise ValueError(f"`{kind}` is {value}; it must be above 0")
    return Target(kind, float(value))
