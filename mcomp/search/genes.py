"""What a search may choose of each layer: bits of its weight and of its input, the share of its channels that stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mcomp.errors import UsageError
from mcomp.suggest import did_you_mean, listed

Kind = Literal["w_bits", "a_bits", "keep"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: One value per gene, in the order of the space: integers for bits, reals for ratios.
Genome = tuple[int | float, ...]

MOST_BITS = 32


@dataclass(frozen=True)
class Gene:
    """One choice about one layer.

    Attributes:
        layer: the name that the model gives it.
        kind: ``w_bits``, ``a_bits`` (whole numbers) or ``keep`` (a share of channels in (0, 1]).
        low: smallest value. high: largest; the same as ``low`` where the gene is pinned.
    """

    layer: str
    kind: Kind
    low: float
    high: float

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        if self.kind not in KINDS:
            raise _wrong(self, f"there is no kind `{self.kind}`", f"one of {listed(KINDS)}")
        if not all(math.isfinite(end) for end in ends) or self.low > self.high:
            raise _wrong(self, f"its range {self.low:g} to {self.high:g} is empty", "the smaller number first")
        if self.whole and not all(end == int(end) and 1 <= end <= MOST_BITS for end in ends):
            raise _wrong(self, f"it has {self.low:g} to {self.high:g} bits", f"whole numbers from 1 to {MOST_BITS}")
        if not self.whole and not 0 < self.low <= self.high <= 1:
            raise _wrong(self, f"it keeps {self.low:g} to {self.high:g} of its channels", "shares above 0, at most 1")

    @property
    def whole(self) -> bool:
        """True where only whole numbers stand for something."""
        return self.kind != "keep"

    @property
    def pinned(self) -> bool:
        """True where nothing is left to choose."""
        return self.low == self.high

    @property
    def name(self) -> str:
        """``kind:layer``, unique within a space."""
        return f"{self.kind}:{self.layer}"

    def value(self, number: float) -> int | float:
        """``number`` moved into the range, whole where bits are meant."""
        inside = min(max(float(number), self.low), self.high)
        return round(inside) if self.whole else inside


def genes_of(
    layers: Sequence[str],
    *,
    w_bits: tuple[int, int] | None = None,
    a_bits: tuple[int, int] | None = None,
    keep: tuple[float, float] | None = None,
    pins: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Gene]:
    """The genes of a network's layers, layer by layer in the given order.

    Args:
        layers: names in order of execution.
        w_bits: fewest and most bits of a weight; None where they are not searched.
        a_bits: fewest and most bits of an input.
        keep: smallest and largest share of the output channels that stays.
        pins: layer to kind to the value that it has in every genome, be it in the range or not.

    Raises:
        UsageError: MC480, no layer, a layer twice, an empty range, or nothing left to choose; MC481, a pinned layer or
            kind that is not there.
    """
    if double := sorted({layer for layer in layers if list(layers).count(layer) > 1}):
        raise UsageError(f"layer `{double[0]}` is named twice", code="MC480", hint="name every layer once")
    ranges = {"w_bits": w_bits, "a_bits": a_bits, "keep": keep}
    pinned = {layer: dict(values) for layer, values in (pins or {}).items()}
    searched = [kind for kind in KINDS if ranges[kind] is not None]
    for layer, values in pinned.items():
        _check_pin(layer, values, layers, searched)
    genes = []
    for layer in layers:
        for kind in searched:
            low, high = ranges[kind] or (0.0, 0.0)
            value = pinned.get(layer, {}).get(kind)
            genes.append(Gene(layer, kind, low, high) if value is None else Gene(layer, kind, value, value))
    return genes


def _check_pin(layer: str, values: Mapping[str, float], layers: Sequence[str], searched: Sequence[str]) -> None:
    if layer not in layers:
        raise UsageError(
            f"the pinned layer `{layer}` is not in the space",
            code="MC481",
            hint=did_you_mean(layer, layers) or f"its layers: {listed(layers)}",
        )
    for kind in values:
        if kind not in searched:
            raise UsageError(
                f"`{kind}` of layer `{layer}` is pinned, but not searched",
                code="MC481",
                hint=did_you_mean(kind, searched) or f"searched: {listed(searched) or 'nothing'}",
            )


def _wrong(gene: Gene, what: str, hint: str) -> UsageError:
    return UsageError(f"`{gene.kind}` of layer `{gene.layer}`: {what}", code="MC480", hint=hint)
