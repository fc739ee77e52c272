"""Optimisers of others on the same problems, each in several ways; the better one counts.

All see the unit cube of the space and are told the loss of the repaired genome at a point: none of them wastes an
evaluation on a genome above the budgets. The ways: from where they begin themselves, and from where ours do (the
uniform genome, the greedy one, and random ones at the top of the cube); pymoo's also with the repair as an operator of
its own, so that what it breeds from is the repaired genome; CMA-ES also with pycma's handling of integers, and it is
begun again when it stops by itself. Populations and all other options are the libraries' own, and 20 bees for pygmo,
which has to be told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from search_problem import Chain, Problem, Vector

Way = Callable[["Trace", int], None]


class SpentError(Exception):
    """The evaluations are used up."""


class Trace:
    """The smallest loss after every evaluation of one run."""

    def __init__(self, problem: Problem | Chain, evaluations: int) -> None:
        self.problem, self.evaluations = problem, evaluations
        self.space = problem.space()
        self.best: list[float] = []

    def genome(self, genome: Any) -> float:
        """The loss of a genome."""
        if len(self.best) >= self.evaluations:
            raise SpentError
        loss = self.problem.loss(genome)
        self.best.append(min(loss, self.best[-1] if self.best else np.inf))
        return loss

    def point(self, point: Any) -> float:
        """The loss at a point of the unit cube."""
        return self.genome(self.space.decode(np.asarray(point, dtype=np.float64)))

    def starts(self, count: int, seed: int) -> Vector:
        """Points to begin with, drawn as ours are."""
        random = np.random.default_rng(seed)
        boxes = [1 - random.uniform(0.3, 1.0) * random.random(len(self.space)) for _ in range(count - 2)]
        return np.array([self.space.encode(self.space.uniform()), self.space.encode(self.space.greedy()), *boxes])


def pymoo(kind: str, *, ours: bool, operator: bool) -> Way:
    def way(trace: Trace, seed: int) -> None:
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.algorithms.soo.nonconvex.pso import PSO
        from pymoo.core.problem import ElementwiseProblem
        from pymoo.core.repair import Repair
        from pymoo.optimize import minimize

        space = trace.space

        class Loss(ElementwiseProblem):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(n_var=len(space), n_obj=1, xl=0.0, xu=1.0)

            def _evaluate(self, x: Vector, out: dict[str, float], *_: Any, **__: Any) -> None:
                out["F"] = trace.point(x)

        class Below(Repair):  # type: ignore[misc]
            def _do(self, problem: Any, points: Vector, **_: Any) -> Vector:
                return np.array([space.encode(space.decode(point)) for point in points])

        options: dict[str, Any] = {"repair": Below()} if operator else {}
        if ours:
            options["sampling"] = trace.starts(100 if kind == "ga" else 25, seed)
        algorithm = {"ga": GA, "pso": PSO}[kind](**options)
        minimize(Loss(), algorithm, ("n_eval", 2 * trace.evaluations), seed=seed, verbose=False)

    return way


def cma_es(*, ours: bool, integers: bool) -> Way:
    """Begun again with another seed, at a random point, whenever it stops by itself."""

    def way(trace: Trace, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its plots, which are not wanted
            import cma

            space = trace.space
            widths = np.where(space.bins > 0, 1 / np.where(space.bins > 0, space.bins, 1), 1.0)
            scale = widths if integers else np.ones(len(space))
            shift = np.where(space.bins > 0, 0.5, 0.0) if integers else 0.0
            options = {"verbose": -9, "bounds": [list(-shift * np.ones(len(space))), list(scale - shift)]}
            options["CMA_stds"] = list(scale)
            if integers:
                options["integer_variables"] = np.flatnonzero(space.bins > 0).tolist()
            begin = trace.starts(20, seed).mean(0) if ours else np.full(len(space), 0.5)
            for again in range(1000):
                options["seed"] = 1 + seed + 1000 * again
                strategy = cma.CMAEvolutionStrategy(begin * scale - shift, 0.3, options)
                while not strategy.stop():
                    asked = strategy.ask()
                    strategy.tell(asked, [trace.point((x + shift) / scale) for x in asked])
                begin = np.random.default_rng(seed + 1000 * again).random(len(space))

    return way


def niapy() -> Way:
    """Its own start only: it takes no population."""

    def way(trace: Trace, seed: int) -> None:
        from niapy.algorithms.basic import ArtificialBeeColonyAlgorithm
        from niapy.problems import Problem as Bounded
        from niapy.task import Task

        class Loss(Bounded):  # type: ignore[misc]
            def _evaluate(self, x: Vector) -> float:
                return trace.point(x)

        task = Task(problem=Loss(dimension=len(trace.space), lower=0.0, upper=1.0), max_evals=2 * trace.evaluations)
        ArtificialBeeColonyAlgorithm(seed=seed).run(task)

    return way


def pygmo(*, ours: bool) -> Way:
    def way(trace: Trace, seed: int) -> None:
        import pygmo as pg

        class Loss:
            def fitness(self, x: Vector) -> list[float]:
                return [trace.point(x) if len(trace.best) < trace.evaluations else np.inf]

            def get_bounds(self) -> tuple[list[float], list[float]]:
                return [0.0] * len(trace.space), [1.0] * len(trace.space)

        population = pg.population(pg.problem(Loss()), 0 if ours else 20, seed=seed + 1)
        for point in trace.starts(20, seed) if ours else ():
            population.push_back(point)
        bees = pg.bee_colony(gen=trace.evaluations // 20, limit=20, seed=seed + 1)
        pg.algorithm(bees).evolve(population)

    return way


#: Peer to its ways.
PEERS: dict[str, dict[str, Way]] = {
    "pymoo GA": {
        "own start": pymoo("ga", ours=False, operator=False),
        "our start": pymoo("ga", ours=True, operator=False),
        "our start, repair as operator": pymoo("ga", ours=True, operator=True),
    },
    "pymoo PSO": {
        "own start": pymoo("pso", ours=False, operator=False),
        "our start": pymoo("pso", ours=True, operator=False),
        "our start, repair as operator": pymoo("pso", ours=True, operator=True),
    },
    "CMA-ES": {
        "own start": cma_es(ours=False, integers=False),
        "our start": cma_es(ours=True, integers=False),
        "our start, integers": cma_es(ours=True, integers=True),
    },
    "niapy ABC": {"own start": niapy()},
    "pygmo ABC": {"own start": pygmo(ours=False), "our start": pygmo(ours=True)},
}
