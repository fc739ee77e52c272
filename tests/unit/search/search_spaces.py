"""Small spaces that several tests share."""

from __future__ import annotations

import numpy as np

from mcomp.search import Genome, Sensitivity, Space, average_bits, cost_budget, genes_of

LAYERS = ("stem", "block.0", "block.1", "head")
WEIGHTS = {"stem": 100, "block.0": 4000, "block.1": 9000, "head": 700}
INPUTS = {"stem": 3000, "block.0": 8000, "block.1": 2000, "head": 64}


def macs(rows: np.ndarray) -> np.ndarray:
    keep = rows[:, 2::3]
    return (keep * np.concatenate([np.ones((len(rows), 1)), keep[:, :-1]], axis=1)).sum(1)


def mixed_space(
    weights: float = 4.0, inputs: float = 4.0, work: float = 2.0, scales: dict[str, float] | None = None
) -> Space:
    """Bits of weights and inputs and ratios of four layers, the first one's weight pinned to 8 bits, three budgets."""
    genes = genes_of(LAYERS, w_bits=(2, 8), a_bits=(2, 8), keep=(0.25, 1.0), pins={"stem": {"w_bits": 8}})
    budgets = [
        average_bits(genes, "w_bits", WEIGHTS, weights),
        average_bits(genes, "a_bits", INPUTS, inputs),
        cost_budget("macs", work, macs),
    ]
    return Space(genes, budgets, Sensitivity(genes, scales))


def quality(genome: Genome) -> float:
    """Larger is better; a smooth function with a product of neighbours, the optimum inside the budgets' corner."""
    values = np.asarray(genome, dtype=np.float64)
    bits, keep = values[np.arange(len(values)) % 3 != 2], values[2::3]
    noise = (0.25 ** (bits - 2)).sum() + 3 * ((1 - keep) ** 2).sum() + (1 - keep[:-1]) @ (1 - keep[1:])
    return float(-noise)
