"""Channel counts of a network that is made wider or narrower."""

from __future__ import annotations

import math


def round_to_multiple(channels: float, base: int) -> int:
    """The multiple of ``base`` nearest to ``channels`` (a tie goes up), at least one ``base``."""
    return max(base, math.floor(channels / base + 0.5) * base)
