"""A test problem for optimisers of mixed precision and pruning, free of noise, and cheap: points of accuracy lost.

Each of ``layers`` layers has a number of bits (2 to 8) and a share of channels that it keeps (0.1 to 1). What makes
it like the real thing, and hard:

* quantisation noise falls to a quarter with each bit, times a factor of the layer's own; pruning hurts ever more;
* narrow layers bear few bits badly (a product of both), and the noise of neighbours adds up with a cross term,
  so that no gene can be set alone;
* some layers are *redundant*: at one share of their own they lose less than with somewhat more or less of them cut.
  A smooth valley, narrower than the slope that leads away from it, and worth it only where the layer has bits to
  spare: following the slope from the uniform genome leads past it;
* accuracy saturates: the loss is ``70 (1 - exp(-x / 70))`` points.

Two budgets bind at once: the mean bits weighted by size, and MACs, where a layer reads what the one before keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mcomp.search import Genome, Space, average_bits, cost_budget, genes_of

Vector = NDArray[np.float64]


@dataclass
class Problem:
    """One draw of the coefficients; the same for everyone who is given the same numbers."""

    layers: int = 11
    seed: int = 0
    bits: float = 4.0
    macs: float = 0.5
    evaluations: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        depth = np.linspace(0, 1, self.layers)
        self.names = [f"layer{number}" for number in range(self.layers)]
        self.sizes = np.round(2000 * 4 ** (2.5 * depth) * random.uniform(0.6, 1.6, self.layers))
        self.work = random.uniform(0.5, 1.5, self.layers)
        self.noise = 8 * np.exp(random.normal(0, 0.8, self.layers)) * (1 + (depth == 0) + (depth == 1))
        self.cut = 6 * np.exp(random.normal(0, 0.7, self.layers))
        self.redundant = random.random(self.layers) < 0.5
        self.valley = random.uniform(0.2, 0.8, self.layers)  # no nearer to the middle of the cube than elsewhere
        self.coupling = random.uniform(0.2, 1.0, self.layers - 1)

    def loss(self, genome: Genome) -> float:
        """Points of accuracy lost, 0 to 70. Counts as one evaluation."""
        self.evaluations += 1
        values = np.asarray(genome, dtype=np.float64)
        bits, keep = values[0::2], values[1::2]
        noise = self.noise * 4.0 ** (2 - bits)
        cut = self.cut * (1 - keep) ** 2 * (1 + 0.5 * (1 - keep))
        narrow = noise * (1 - keep) / keep * 0.5
        depth = 0.75 / (1 + np.exp(4 - 2 * bits + 4))  # the valley is there from five bits on
        gain = self.redundant * depth * cut * np.exp(-(((keep - self.valley) / 0.07) ** 2))
        error = noise + narrow + cut - gain
        total = error.sum() + (self.coupling * np.sqrt(error[:-1] * error[1:])).sum()
        return float(70 * (1 - np.exp(-total / 70)))

    def macs_of(self, rows: Vector) -> Vector:
        """Share of the unpruned network's MACs. Shape ``(n, genes)`` to ``(n,)``."""
        keep = rows[:, 1::2]
        inputs = np.concatenate([np.ones((len(keep), 1)), keep[:, :-1]], axis=1)
        share: Vector = (keep * inputs) @ self.work / self.work.sum()
        return share

    def space(self) -> Space:
        """The genes, layer by layer bits and ratio, under both budgets; nothing is known of sensitivities."""
        genes = genes_of(self.names, w_bits=(2, 8), keep=(0.1, 1.0))
        sizes = dict(zip(self.names, self.sizes.tolist(), strict=True))
        budgets = [average_bits(genes, "w_bits", sizes, self.bits), cost_budget("macs", self.macs, self.macs_of)]
        return Space(genes, budgets)
