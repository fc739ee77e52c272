"""Optimisers by the name that a recipe gives them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcomp.errors import UsageError
from mcomp.search.space import Space
from mcomp.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from mcomp.search.base import Optimizer
    from mcomp.search.optuna_samplers import OptunaOptimizer

_OWN = {
    "ga": ("genetic", "Genetic"),
    "pso": ("particle_swarm", "ParticleSwarm"),
    "abc": ("artificial_bee_colony", "ArtificialBeeColony"),
    "aco": ("ant_colony", "AntColony"),
    "greedy": ("greedy", "Greedy"),
}
_OPTUNA = ("tpe", "nsga2", "cmaes")

#: What there is to choose from; the last three through Optuna.
ALGORITHMS: tuple[str, ...] = (*_OWN, *_OPTUNA)


def build_optimizer(
    name: str, space: Space, *, seed: int = 0, population: int | None = None, start: Sequence[Sequence[float]] = ()
) -> Optimizer | OptunaOptimizer:
    """The optimiser of that name, over a space.

    Raises:
        UsageError: MC485, there is none of that name.
        BackendMissingError: MC622, it comes from Optuna, which is not installed.
    """
    if name in _OWN:
        module, cls = _OWN[name]
        built: Optimizer = getattr(importlib.import_module(f"mcomp.search.{module}"), cls)(
            space, seed=seed, population=population, start=start
        )
        return built
    if name in _OPTUNA:
        from mcomp.search.optuna_samplers import OptunaOptimizer

        return OptunaOptimizer(name, space, seed=seed, population=population, start=start)
    raise UsageError(
        f"there is no algorithm `{name}`",
        code="MC485",
        hint=did_you_mean(name, ALGORITHMS) or f"one of {listed(ALGORITHMS)}",
    )
