"""TPE, NSGA-II and CMA-ES through Optuna, asked and told like the optimisers of our own.

Tree-structured Parzen estimators after Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NIPS 2011);
NSGA-II after Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (IEEE TEVC 6, 2002); CMA-ES
after Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv:1604.00772). Needs the extra ``search``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from mcomp.errors import BackendMissingError, UsageError
from mcomp.search.base import Candidate
from mcomp.search.genes import Genome
from mcomp.search.space import Space
from mcomp.suggest import did_you_mean, listed

SAMPLERS = ("tpe", "nsga2", "cmaes")
_AGAIN = 20


class OptunaOptimizer:
    """One of Optuna's samplers over a space. What it draws is repaired, and told it as if it had drawn that.

    Each candidate's chance comes from the seed and its number alone, so a restored optimiser draws as the first would
    have. With several workers it depends on what has been told when it is asked for.

    Args:
        name: ``tpe``, ``nsga2`` or ``cmaes``.
        space: where to search.
        seed: of all chance.
        population: of ``nsga2`` and ``cmaes``; Optuna's own without it.
        start: genomes to begin with, beside the uniform and the greedy one of the space; they are repaired.
        objectives: how many numbers a fitness has, all of them better when larger; more than one not with ``cmaes``.

    Raises:
        BackendMissingError: MC622, Optuna is not installed.
        UsageError: MC485, there is no such sampler, or it takes one objective only.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        *,
        seed: int = 0,
        population: int | None = None,
        start: Sequence[Sequence[float]] = (),
        objectives: int = 1,
    ) -> None:
        if name not in SAMPLERS:
            hint = did_you_mean(name, SAMPLERS) or f"one of {listed(SAMPLERS)}"
            raise UsageError(f"Optuna gives no `{name}` here", code="MC485", hint=hint)
        if objectives < 1 or (name == "cmaes" and objectives > 1):
            raise UsageError(
                f"`{name}` with {objectives} objectives",
                code="MC485",
                hint="one objective, or `nsga2` or `tpe` for several",
            )
        self.name, self.space, self.seed, self.population, self.objectives = name, space, seed, population, objectives
        self._optuna = _import(name)
        self._axes = self._distributions()
        self._study = self._new_study()
        self.best: tuple[Genome, float] | None = None
        self._known: dict[Genome, tuple[float, ...]] = {}
        self._open: dict[int, tuple[int, Genome]] = {}
        self._told: dict[int, Genome] = {}
        self._waiting: list[int] = []
        self._next = 0
        self._start = list(dict.fromkeys([*map(space.repair, start), space.uniform(), space.greedy()]))

    @property
    def finished(self) -> bool:
        """Never: a sampler has no last generation."""
        return False

    def ask(self, n: int = 1) -> list[Candidate]:
        """``n`` candidates, first those that were out before a restore; fewer where only known ones are drawn."""
        while len(self._waiting) < n and self._draw():
            pass
        given, self._waiting = self._waiting[:n], self._waiting[n:]
        return [Candidate(number, self._open[number][1]) for number in given]

    def tell(self, candidate: Candidate, fitness: float | Sequence[float]) -> bool:
        """Report a candidate's fitness; ``-inf`` where it could not be tried.

        Returns:
            Whether it counted: a candidate counts once.

        Raises:
            UsageError: MC483, not a number, another count of numbers, or never asked for.
        """
        values = (float(fitness),) if isinstance(fitness, int | float) else tuple(map(float, fitness))
        number, genome = candidate.number, tuple(candidate.genome)
        if len(values) != self.objectives or any(math.isnan(value) or value == math.inf for value in values):
            raise UsageError(
                f"candidate {number} has the fitness {fitness}", code="MC483", hint=f"{self.objectives} finite or -inf"
            )
        if self._told.get(number) == genome:
            return False
        if number not in self._open or self._open[number][1] != genome:
            raise UsageError(f"candidate {number} was not asked for", code="MC483", hint="tell what `ask` gave")
        trial, _ = self._open.pop(number)
        if number in self._waiting:
            self._waiting.remove(number)
        self._told[number], self._known[genome] = genome, values
        self._finish(trial, values)
        if self.objectives == 1 and math.isfinite(values[0]) and (self.best is None or values[0] > self.best[1]):
            self.best = (genome, values[0])
        return True

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it: the trials with what the sampler noted on them."""
        to_json = self._optuna.distributions.distribution_to_json
        return {
            "algorithm": self.name,
            "space": self.space.fingerprint(),
            "seed": self.seed,
            "population": self.population,
            "objectives": self.objectives,
            "axes": {name: to_json(axis) for name, axis in self._axes.items()},
            "trials": [
                {
                    "state": trial.state.name,
                    "params": trial.params,
                    "values": trial.values,
                    "notes": trial.system_attrs,
                }
                for trial in self._study.get_trials(deepcopy=False)
            ],
            "open": [[number, trial, list(genome)] for number, (trial, genome) in self._open.items()],
            "told": [
                [number, list(genome), [None if value == -math.inf else value for value in self._known[genome]]]
                for number, genome in self._told.items()
            ],
            "next": self._next,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Candidates that were out are given out again.

        Raises:
            UsageError: MC484, the state is of another algorithm, space, seed, population or number of objectives.
        """
        for key in ("algorithm", "space", "seed", "population", "objectives"):
            mine = {"algorithm": self.name, "space": self.space.fingerprint()}.get(key) or getattr(self, key, None)
            if state.get(key) != mine:
                raise UsageError(
                    f"the state is of another study: its {key} is {state.get(key)!r}, here it is {mine!r}",
                    code="MC484",
                    hint="go on with the options it was begun with, or begin a new one",
                )
        self._study = self._new_study()
        trials = self._optuna.trial
        for one in state["trials"]:
            self._study.add_trial(
                trials.create_trial(
                    state=trials.TrialState[one["state"]],
                    params=one["params"],
                    distributions=self._axes if one["params"] else {},
                    values=one["values"],
                    system_attrs=one["notes"],
                )
            )
        self._open = {number: (trial, tuple(genome)) for number, trial, genome in state["open"]}
        told = [
            (number, tuple(genome), tuple(-math.inf if value is None else value for value in values))
            for number, genome, values in state["told"]
        ]
        self._told = {number: genome for number, genome, _ in told}
        self._known = {genome: values for _, genome, values in told}
        self._waiting, self._next = sorted(self._open), state["next"]
        single = [(genome, values[0]) for _, genome, values in told if math.isfinite(values[0])]
        self.best = max(single, key=lambda one: one[1]) if single and self.objectives == 1 else None

    def _draw(self) -> bool:
        """Draw a genome that is not known; one that is, is told the sampler at once. False after too many of those."""
        out = {genome for _, genome in self._open.values()}
        for _ in range(_AGAIN):
            count = len(self._study.get_trials(deepcopy=False))
            if count < len(self._start):
                self._study.enqueue_trial(self._params(self._start[count]))
            self._study.sampler = self._sampler(count)
            trial = self._study.ask(self._axes)
            genome = self._genome(trial.params)
            if genome in self._known:
                self._finish(trial.number, self._known[genome])
            elif genome in out:
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._open[self._next] = (trial.number, genome)
                self._waiting.append(self._next)
                self._next += 1
                return True
        return False

    def _finish(self, trial: int, values: tuple[float, ...]) -> None:
        if all(map(math.isfinite, values)):
            self._study.tell(trial, list(values))
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _genome(self, params: dict[str, Any]) -> Genome:
        return self.space.repair([params.get(gene.name, gene.low) for gene in self.space.genes])

    def _params(self, genome: Genome) -> dict[str, float]:
        return {self.space.genes[place].name: genome[place] for place in self.space.free.tolist()}

    def _distributions(self) -> dict[str, Any]:
        make = self._optuna.distributions
        axes = {}
        for place in self.space.free.tolist():
            gene = self.space.genes[place]
            ends = (int(gene.low), int(gene.high)) if gene.whole else (gene.low, gene.high)
            axes[gene.name] = (make.IntDistribution if gene.whole else make.FloatDistribution)(*ends)
        return axes

    def _new_study(self) -> Any:
        quiet = self._optuna.logging
        before = quiet.get_verbosity()
        quiet.set_verbosity(quiet.WARNING)  # it tells the terminal of every study that is made
        try:
            return self._optuna.create_study(directions=["maximize"] * self.objectives)
        finally:
            quiet.set_verbosity(before)

    def _sampler(self, number: int) -> Any:
        make = self._optuna.samplers
        seed = (self.seed * 1_000_003 + number) % 2**32
        sized = {} if self.population is None else {"population_size": self.population}
        if self.name == "nsga2":
            return make.NSGAIISampler(seed=seed, **sized)
        if self.name == "cmaes":
            sized = {} if self.population is None else {"popsize": self.population}
            return make.CmaEsSampler(seed=seed, warn_independent_sampling=False, **sized)
        return make.TPESampler(seed=seed)


def _import(name: str) -> Any:
    try:
        if name == "cmaes":
            importlib.import_module("cmaes")
        return importlib.import_module("optuna")
    except ImportError as error:
        raise BackendMissingError(
            f"the algorithm `{name}` needs {error.name or 'optuna'}, which is not installed",
            code="MC622",
            hint="pip install 'mcomp[search]', or take one of ours: `ga`, `pso`, `abc`, `aco`, `greedy`",
        ) from error
