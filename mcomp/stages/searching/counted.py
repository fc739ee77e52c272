"""What a candidate really has, counted on the cut network."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mcomp.metrics import count
from mcomp.search.network_space import NetworkSpace
from mcomp.search.study import Trial

_COUNTED = ("macs", "params")


def as_counted(trial: Trial, known: NetworkSpace, example_inputs: tuple[Tensor, ...]) -> Trial:
    """The trial with the MACs and parameters of its network: code may tie widths in ways that no cost foresees."""
    if known.pruning is None:
        return trial
    named = known.space.named(trial.genome)
    shares = {name: float(kinds["keep"]) for name, kinds in named.items() if "keep" in kinds}
    found = count(known.pruning.cut(shares), example_inputs)
    return replace(trial, costs={**trial.costs, "macs": float(found.macs), "params": float(found.params)})


def beyond(trial: Trial, known: NetworkSpace) -> list[str]:
    """Budgets of what is counted that the network of a trial does not keep, as sentences."""
    return [
        f"`{budget.name}` is {trial.costs[budget.name]:.0f}, above its budget {budget.limit:.0f}"
        for budget in known.space.budgets
        if budget.name in _COUNTED and trial.costs[budget.name] > budget.bound
    ]
