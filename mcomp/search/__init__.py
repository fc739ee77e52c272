"""Search over bits and ratios: a space of genes under budgets, and optimisers that ask and are told.

Imported on first use: neither numpy nor torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.search.ant_colony import AntColony
    from mcomp.search.artificial_bee_colony import ArtificialBeeColony
    from mcomp.search.base import Candidate, Optimizer
    from mcomp.search.budgets import Budget, average_bits, cost_budget
    from mcomp.search.genes import Gene, Genome, genes_of
    from mcomp.search.genetic import Genetic
    from mcomp.search.greedy import Greedy
    from mcomp.search.optuna_samplers import OptunaOptimizer
    from mcomp.search.particle_swarm import ParticleSwarm
    from mcomp.search.registry import ALGORITHMS, build_optimizer
    from mcomp.search.sensitivity import Sensitivity
    from mcomp.search.space import Space

_HOMES = {
    "ALGORITHMS": "registry",
    "AntColony": "ant_colony",
    "ArtificialBeeColony": "artificial_bee_colony",
    "Budget": "budgets",
    "Candidate": "base",
    "Gene": "genes",
    "Genome": "genes",
    "Genetic": "genetic",
    "Greedy": "greedy",
    "Optimizer": "base",
    "OptunaOptimizer": "optuna_samplers",
    "ParticleSwarm": "particle_swarm",
    "Sensitivity": "sensitivity",
    "Space": "space",
    "average_bits": "budgets",
    "build_optimizer": "registry",
    "cost_budget": "budgets",
    "genes_of": "genes",
}

__all__ = [
    "ALGORITHMS",
    "AntColony",
    "ArtificialBeeColony",
    "Budget",
    "Candidate",
    "Gene",
    "Genetic",
    "Genome",
    "Greedy",
    "Optimizer",
    "OptunaOptimizer",
    "ParticleSwarm",
    "Sensitivity",
    "Space",
    "average_bits",
    "build_optimizer",
    "cost_budget",
    "genes_of",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.search` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
