"""The space that a network spans: genes of its layers, budgets from its own sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.pruning.targets import amount_of
from mcomp.search.budgets import Budget, average_bits
from mcomp.search.genes import Gene, Genome, Kind, genes_of
from mcomp.search.network import Layer, layers_of
from mcomp.search.network_costs import Times, byte_cost, latency_cost, times_of, whole_costs, width_cost
from mcomp.search.sensitivity import Sensitivity
from mcomp.search.space import Space
from mcomp.suggest import did_you_mean, listed

#: What a budget may bound, or a front be drawn over; the first two are means, weighted by size.
COSTS = ("avg_bit_weights", "avg_bit_fm", "macs", "params", "bytes", "latency_ms")
#: Of these a budget below 1 is a share of what the network has.
SHARED = ("macs", "params", "bytes")


@dataclass(frozen=True)
class Budgets:
    """What every candidate keeps; None where nothing is bounded.

    Attributes:
        avg_bit_weights: mean bits of the weights, each layer weighted by its elements.
        avg_bit_fm: mean bits of what layers read, weighted by the elements of one sample.
        macs: multiply-accumulates of one sample: a count, a share below 1, or ``"300M"``.
        params: parameters, likewise.
        bytes: of all parameters, at the bits that they have, likewise.
        latency_ms: of one image on one thread of this CPU, in the float network: bits have no part in it.
    """

    avg_bit_weights: float | None = None
    avg_bit_fm: float | None = None
    macs: float | str | None = None
    params: float | str | None = None
    bytes: float | str | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class NetworkSpace:
    """Genes and budgets of one network.

    Attributes:
        space: for an optimiser.
        layers: those whose bits are searched, in order of execution.
        pruning: cuts of the network; None where no share is searched.
        costs: name, as in :data:`COSTS`, to what is known of a candidate before it is tried.
        whole: the same names to what the float network has, where that says something.
        times: that latencies are told from; None where none is.
    """

    space: Space
    layers: tuple[Layer, ...]
    pruning: RepeatedPruning | None
    costs: Mapping[str, Budget]
    whole: Mapping[str, float]
    times: Times | None = None

    def costs_of(self, genome: Genome) -> dict[str, float]:
        """What a candidate costs, by name."""
        row = np.asarray(genome, dtype=np.float64)
        return {name: cost.value(row) for name, cost in self.costs.items()}

    def keeps(self, genome: Genome) -> bool:
        """True where a candidate is inside all budgets."""
        row = np.asarray(genome, dtype=np.float64)
        return all(budget.value(row) <= budget.bound for budget in self.space.budgets)


def network_space(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    w_bits: tuple[int, int] | None = (2, 8),
    a_bits: tuple[int, int] | None = (2, 8),
    keep: tuple[float, float] | None = None,
    first_last_bits: int | None = 8,
    pins: Mapping[str, Mapping[str, float]] | None = None,
    pruning: RepeatedPruning | None = None,
    budgets: Budgets = Budgets(),
    points: Mapping[str, Mapping[float, float]] | None = None,
    time: bool = False,
    times: Times | None = None,
) -> NetworkSpace:
    """The space of a model.

    Args:
        model: float; unchanged.
        example_inputs: a batch that it accepts.
        w_bits: fewest and most bits of a weight; None leaves weights alone.
        a_bits: likewise of what a layer reads.
        keep: smallest and largest share of its channels that a group of coupled layers keeps; needs ``pruning``.
        first_last_bits: bits of the first and the last layer; None searches them too.
        pins: layer to kind to its value in every candidate.
        pruning: cuts of the model.
        budgets: what every candidate keeps.
        points: measured losses, ``kind:layer`` to value to loss; those of other layers are left out.
        time: know the latency of candidates even where no budget bounds it.
        times: measured before: those of now would lead a search elsewhere. Measured anew where left out.

    Raises:
        UsageError: MC480, nothing is left to search; MC481, a pinned layer that is not there; MC482, no candidate keeps
            a budget, and the nearest that can be kept.
        StageError: MC486, the network calls no layer.
    """
    layers = layers_of(model, example_inputs)
    pruning = pruning if keep is not None else None
    genes = _genes(layers, pruning, {"w_bits": w_bits, "a_bits": a_bits}, keep, first_last_bits, pins or {})
    whole = whole_costs(model, pruning)
    limits = {each.name: getattr(budgets, each.name) for each in fields(Budgets)}
    if not genes or pruning is None or not (time or limits["latency_ms"] is not None):
        times = None
    elif times is None:
        times = times_of(model, example_inputs, genes, pruning)
    costs = _costs(model, genes, layers, pruning, times)
    bounded = [_bounded(name, limit, costs, whole) for name, limit in limits.items() if limit is not None]
    known = {gene.name for gene in genes}
    measured = {name: dict(curve) for name, curve in (points or {}).items() if name in known}
    space = Space(genes, bounded, Sensitivity(genes, points=measured))
    return NetworkSpace(space, tuple(layers), pruning, costs, whole, times)


def _genes(
    layers: Sequence[Layer],
    pruning: RepeatedPruning | None,
    bits: Mapping[Kind, tuple[int, int] | None],
    keep: tuple[float, float] | None,
    first_last_bits: int | None,
    pins: Mapping[str, Mapping[str, float]],
) -> list[Gene]:
    held = {name: dict(kinds) for name, kinds in pins.items()}
    searched: dict[Kind, tuple[int, int]] = {kind: span for kind, span in bits.items() if span is not None}
    if first_last_bits is not None:
        for layer in (layers[0].name, layers[-1].name):
            for kind in searched:
                held.setdefault(layer, {}).setdefault(kind, first_last_bits)
    groups = dict(pruning.layers) if pruning is not None else {}
    _check_pins(held, [layer.name for layer in layers], groups, [*searched, *(["keep"] if pruning is not None else [])])
    genes: list[Gene] = []
    if searched:
        own = {name: {kind: value for kind, value in kinds.items() if kind != "keep"} for name, kinds in held.items()}
        genes += genes_of(
            [layer.name for layer in layers],
            w_bits=searched.get("w_bits"),
            a_bits=searched.get("a_bits"),
            pins={name: kinds for name, kinds in own.items() if kinds},
        )
    if pruning is not None and groups:
        channels, bases = pruning.channels(), pruning.bases()
        genes += genes_of(
            list(groups),
            keep=keep,
            pins={name: {"keep": kinds["keep"]} for name, kinds in held.items() if "keep" in kinds},
            steps={name: bases[name] / channels[name] for name in groups},
        )
    return genes


def _check_pins(
    held: Mapping[str, Mapping[str, float]],
    layers: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    searched: Sequence[str],
) -> None:
    for name, own in held.items():
        for kind in own:
            if kind not in searched:
                raise UsageError(
                    f"`pins`: `{kind}` of `{name}` is pinned, and not searched",
                    code="MC481",
                    hint=f"drop the pin, or give `{kind}` a range",
                )
            known = list(groups) if kind == "keep" else layers
            if name not in known:
                what = "no group of channels" if kind == "keep" else "no layer"
                raise UsageError(
                    f"`pins`: {what} is called `{name}`", code="MC481", hint=_other_name(name, kind, known, groups)
                )


def _other_name(name: str, kind: str, known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """A group goes by its first layer."""
    first = next((group for group, coupled in groups.items() if name in coupled), None)
    if kind == "keep" and first is not None:
        return f"its channels are those of `{first}`: pin that"
    return did_you_mean(name, known) or (f"there are {listed(known[:8])}" + (" …" if len(known) > 8 else ""))


def _costs(
    model: nn.Module,
    genes: Sequence[Gene],
    layers: Sequence[Layer],
    pruning: RepeatedPruning | None,
    times: Times | None,
) -> dict[str, Budget]:
    """Every cost that the genes have a part in; its limit is the largest, which bounds nothing."""
    kinds = {gene.kind for gene in genes}
    found: dict[str, Budget] = {}
    if "w_bits" in kinds:
        found["avg_bit_weights"] = average_bits(genes, "w_bits", {each.name: each.weights for each in layers}, 32)
    if "a_bits" in kinds:
        found["avg_bit_fm"] = average_bits(genes, "a_bits", {each.name: each.inputs for each in layers}, 32)
    if pruning is not None and "keep" in kinds:
        for kind in ("macs", "params"):
            found[kind] = Budget(kind, pruning.whole[kind], width_cost(genes, pruning, kind))
        if times is not None:
            found["latency_ms"] = Budget("latency_ms", 1.0, latency_cost(genes, pruning, times))
    if "w_bits" in kinds or "keep" in kinds:
        found["bytes"] = Budget("bytes", 1.0, byte_cost(model, genes, layers, pruning))
    return found


def _bounded(name: str, limit: float | str, costs: Mapping[str, Budget], whole: Mapping[str, float]) -> Budget:
    if name not in costs:
        needed = {"avg_bit_weights": "w_bits", "avg_bit_fm": "a_bits", "bytes": "w_bits"}.get(name, "keep")
        example = "[0.3, 1.0]" if needed == "keep" else "[2, 8]"
        raise UsageError(
            f"`{name}` is bounded, and nothing that is searched changes it",
            code="MC482",
            hint=f"give `{needed}` a range, e.g. `{needed}: {example}`, or drop the budget",
        )
    amount, is_share = amount_of(limit) if name in SHARED else (float(limit), False)
    bound = amount * whole[name] if is_share else amount
    return Budget(name, bound, costs[name].cost, costs[name].slopes)
