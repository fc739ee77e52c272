"""The space of a search: genes of layers, and the budgets that every genome keeps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from mcomp.errors import UsageError
from mcomp.search.budgets import Budget, Vector
from mcomp.search.genes import Gene, Genome
from mcomp.search.repair import repair
from mcomp.search.sensitivity import Sensitivity
from mcomp.suggest import did_you_mean, listed

_HALVINGS = 40


class Space:
    """Genes under budgets. Optimisers see it as the unit cube of its free genes.

    A whole gene of ``k`` values cuts its edge of the cube into ``k`` equal parts, a real one fills its edge.

    Args:
        genes: in order of the layers; see :func:`mcomp.search.genes_of`.
        budgets: what every genome has to keep.
        sensitivity: what lowering a gene costs; the same of all layers without it.

    Attributes:
        free: ``(free genes,)`` places of the genes that are not pinned.
        bins: ``(free genes,)`` width of a value's part of the edge; 0 for reals.

    Raises:
        UsageError: MC480, there is nothing to choose, or a gene twice; MC482, no genome keeps a budget.
    """

    def __init__(
        self, genes: Sequence[Gene], budgets: Sequence[Budget] = (), sensitivity: Sensitivity | None = None
    ) -> None:
        self.genes = tuple(genes)
        self.budgets = tuple(budgets)
        self.sensitivity = sensitivity or Sensitivity(self.genes)
        self.free = np.array([place for place, gene in enumerate(genes) if not gene.pinned], dtype=np.intp)
        self._low = np.array([gene.low for gene in genes], dtype=np.float64)
        self._high = np.array([gene.high for gene in genes], dtype=np.float64)
        self._whole = np.array([gene.whole for gene in genes], dtype=bool)
        self._check_genes()
        margin = np.where(self._whole, 0.5, 0.0)
        self._start, self._span = (self._low - margin)[self.free], (self._high - self._low + 2 * margin)[self.free]
        self.bins = np.where(self._whole[self.free], 1 / self._span, 0.0)
        for budget in self.budgets:
            self._check_budget(budget)

    def __len__(self) -> int:
        """The number of genes that are not pinned."""
        return len(self.free)

    def decode(self, point: Vector) -> Genome:
        """The genome at a point of the unit cube, repaired. Shape ``(free genes,)``; points outside are moved in."""
        values = self._low.copy()
        values[self.free] = self._start + np.clip(point, 0, 1) * self._span
        return self._genome(repair(self._snap(values), self.genes, self.budgets, self.sensitivity))

    def encode(self, genome: Genome) -> Vector:
        """The middle of a genome's part of the unit cube. Shape ``(free genes,)``."""
        values = np.asarray(genome, dtype=np.float64)[self.free]
        point: Vector = np.clip((values - self._start) / self._span, 0, 1)
        return point

    def repair(self, genome: Sequence[float]) -> Genome:
        """The genome below that keeps every budget; pins are put in their place.

        Raises:
            UsageError: MC480, it has another number of genes.
        """
        return self._genome(repair(self._snap(self._values(genome)), self.genes, self.budgets, self.sensitivity))

    def keeps(self, genome: Sequence[float]) -> bool:
        """True where every budget is kept and every gene is in its range."""
        values = self._values(genome)
        return bool((self._snap(values) == values).all()) and all(
            one.value(values) <= one.bound for one in self.budgets
        )

    def costs(self, genome: Sequence[float]) -> dict[str, float]:
        """What a genome costs, by the name of the budget."""
        return {budget.name: budget.value(self._values(genome)) for budget in self.budgets}

    def lowest(self) -> Genome:
        """The cheapest genome."""
        return self._genome(self._low)

    def top(self) -> Genome:
        """The genome that knows no budget."""
        return self._genome(self._high)

    def greedy(self) -> Genome:
        """The genome that the sensitivities lead to from the top."""
        return self.repair(self._high.tolist())

    def uniform(self) -> Genome:
        """All layers at the largest same part of their ranges that fits; then kind by kind as far as it still fits."""
        kinds = sorted({self.genes[place].kind for place in self.free}, key=["keep", "a_bits", "w_bits"].index)
        shares = dict.fromkeys(kinds, self._largest(lambda share: dict.fromkeys(kinds, share)))
        for kind in kinds:
            shares[kind] = max(shares[kind], self._largest(partial(_with, shares, kind)))
        return self._genome(self._at(shares))

    def random(self, generator: np.random.Generator) -> Genome:
        """A genome drawn evenly from the cube and, where it costs too much, drawn towards the lowest until it fits."""
        point = generator.random(len(self))
        if self._fits(self._of_point(point)):
            return self.decode(point)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS // 4):
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(self._of_point(point * middle)) else (low, middle)
        return self.decode(point * low)

    def named(self, genome: Genome) -> dict[str, dict[str, int | float]]:
        """Layer to kind to value."""
        named: dict[str, dict[str, int | float]] = {}
        for gene, value in zip(self.genes, genome, strict=True):
            named.setdefault(gene.layer, {})[gene.kind] = value
        return named

    def genome(self, named: Mapping[str, Mapping[str, float]]) -> Genome:
        """A genome from layer to kind to value; what is not said is at its largest. Not repaired.

        Raises:
            UsageError: MC481, a layer or kind that is not in the space.
        """
        known = {(gene.layer, gene.kind): place for place, gene in enumerate(self.genes)}
        values = self._high.copy()
        for layer, kinds in named.items():
            for kind, value in kinds.items():
                if (layer, kind) not in known:
                    names = [gene.name for gene in self.genes]
                    raise UsageError(
                        f"`{kind}` of layer `{layer}` is not in the space",
                        code="MC481",
                        hint=did_you_mean(f"{kind}:{layer}", names) or f"its genes: {listed(names)}",
                    )
                values[known[layer, kind]] = value  # type: ignore[index]
        return self._genome(self._snap(values))

    def fingerprint(self) -> str:
        """A digest of genes, budgets by name and limit, and sensitivities: a state of another space is told by it."""
        said = {
            "genes": [[gene.name, gene.low, gene.high] for gene in self.genes],
            "budgets": [[budget.name, budget.limit] for budget in self.budgets],
            "sensitivity": self.sensitivity.as_json(),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def _values(self, genome: Sequence[float]) -> Vector:
        values = np.asarray(genome, dtype=np.float64)
        if values.shape != self._low.shape or not np.isfinite(values).all():
            raise UsageError(
                f"a genome of {values.size} values does not fit a space of {len(self.genes)} genes",
                code="MC480",
                hint="give one finite number per gene, pinned ones included",
            )
        return values

    def _snap(self, values: Vector) -> Vector:
        inside: Vector = np.clip(values, self._low, self._high)
        return np.where(self._whole, np.round(inside), inside)

    def _genome(self, values: Vector) -> Genome:
        return tuple(int(value) if whole else float(value) for value, whole in zip(values, self._whole, strict=True))

    def _of_point(self, point: Vector) -> Vector:
        values = self._low.copy()
        values[self.free] = self._start + point * self._span
        return self._snap(values)

    def _at(self, shares: Mapping[str, float]) -> Vector:
        share = np.array([shares.get(gene.kind, 0.0) for gene in self.genes])
        values = self._low + share * (self._high - self._low)
        return np.where(self._whole, np.floor(values + 1e-9), values)

    def _largest(self, shares: Callable[[float], Mapping[str, float]]) -> float:
        low, high = 0.0, 1.0
        if self._fits(self._at(shares(1.0))):
            return 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(self._at(shares(middle))) else (low, middle)
        return low

    def _fits(self, values: Vector) -> bool:
        return all(budget.value(values) <= budget.bound for budget in self.budgets)

    def _check_genes(self) -> None:
        names = [gene.name for gene in self.genes]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"the space has `{double[0]}` twice", code="MC480", hint="name every layer once")
        if not len(self.free):
            why = f"all {len(names)} genes are pinned" if names else "there are no genes"
            raise UsageError(
                "there is nothing to search",
                code="MC480",
                why=why,
                hint="leave a layer free, with a range of bits or ratios",
            )

    def _check_budget(self, budget: Budget) -> None:
        least, most = budget.value(self._low), budget.value(self._high)
        if not math.isfinite(least) or not math.isfinite(most) or least > most:
            raise UsageError(
                f"the cost `{budget.name}` is {least:g} with every gene at its smallest and {most:g} at its largest",
                code="MC482",
                hint="give a cost that is finite, and that no gene raises as it falls",
            )
        if least > budget.bound:
            pinned = len(self.genes) - len(self.free)
            nearest = rounded_up(least)
            raise UsageError(
                f"no genome keeps `{budget.name}: {budget.limit:g}`; the nearest that can be kept is {nearest}",
                code="MC482",
                why=f"with every gene at its smallest it costs {least:g}" + (f" ({pinned} pinned)" if pinned else ""),
                hint=f"set `{budget.name}` to {nearest} or more, widen the ranges downwards, or pin less",
            )


def _with(shares: Mapping[str, float], kind: str, share: float) -> dict[str, float]:
    return {**shares, kind: share}


def rounded_up(value: float) -> str:
    """A number of at most six digits that is not below ``value``."""
    digits = 5 - math.floor(math.log10(value)) if value > 0 else 0
    up = math.ceil(round(value * 10.0**digits, 6)) / 10.0**digits
    return f"{up:.{max(digits, 0)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{up:.0f}"
