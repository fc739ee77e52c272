"""What each layer alone costs at each value: the map that a search starts from and a report draws. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from mcomp.search.genes import MOST_BITS, Kind

#: The value of each kind that leaves a layer as it is, where nothing is lost.
UNTOUCHED: Mapping[Kind, float] = {"w_bits": MOST_BITS, "a_bits": MOST_BITS, "keep": 1.0}
#: Kind, layer, value: the place of one measurement.
Cell = tuple[Kind, str, float]


@dataclass(frozen=True)
class LayerLoss:
    """The network with one layer at one value, and everything else as it was.

    Attributes:
        kind: ``w_bits``, ``a_bits`` or ``keep``.
        layer: its name; of coupled layers that of the first.
        value: bits, or the share of channels that stays.
        loss_rise: cross-entropy above that of the untouched network, in nats.
        top1_drop: top-1 below that of the untouched network, in points.
    """

    kind: Kind
    layer: str
    value: float
    loss_rise: float
    top1_drop: float

    @property
    def cell(self) -> Cell:
        """Its place in the map."""
        return self.kind, self.layer, self.value


@dataclass(frozen=True)
class SensitivityMap:
    """Layer by bits and layer by ratio, measured one at a time.

    Attributes:
        base_loss: mean cross-entropy of the untouched network on the same images, in nats.
        base_top1: its top-1 in percent.
        rows: kind by kind, layers in order of execution, the gentlest value first.
        images: held-out images behind each figure.
    """

    base_loss: float
    base_top1: float
    rows: tuple[LayerLoss, ...] = ()
    images: int = 0

    def points(self) -> dict[str, dict[float, float]]:
        """``kind:layer`` to value to rise of the loss, as :class:`mcomp.search.sensitivity.Sensitivity` takes them.

        With the value that leaves the layer as it is, at which nothing rises.
        """
        found: dict[str, dict[float, float]] = {}
        for row in self.rows:
            found.setdefault(f"{row.kind}:{row.layer}", {UNTOUCHED[row.kind]: 0.0})[row.value] = row.loss_rise
        return found

    def of(self, kind: Kind) -> tuple[LayerLoss, ...]:
        """The rows of one kind."""
        return tuple(row for row in self.rows if row.kind == kind)

    @property
    def worst(self) -> LayerLoss | None:
        """The row whose loss rises most; of equals the first."""
        return max(self.rows, key=lambda row: row.loss_rise, default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; each row is ``[kind, layer, value, loss_rise, top1_drop]``."""
        rows = [list(astuple(row)) for row in self.rows]
        return {"base_loss": self.base_loss, "base_top1": self.base_top1, "images": self.images, "rows": rows}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> SensitivityMap:
        """What :meth:`as_dict` gave."""
        rows = tuple(LayerLoss(*row) for row in held["rows"])
        return cls(held["base_loss"], held["base_top1"], rows, held["images"])
