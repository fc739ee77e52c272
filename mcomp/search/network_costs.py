"""What the genomes of a network cost: functions of many genomes at a time.

Exact but for latency, and for matrix products of two activations whose widths are cut apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.metrics.cost import parameter_count
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.budgets import Cost, Vector
from mcomp.search.genes import Gene
from mcomp.search.network import Layer

#: Of a parameter that is not quantised.
FLOAT_BITS = 32


class Widths:
    """Channels of the groups from the genes, rounded as a cut rounds them."""

    def __init__(self, genes: Sequence[Gene], pruning: RepeatedPruning, names: Sequence[str]) -> None:
        places = {gene.layer: place for place, gene in enumerate(genes) if gene.kind == "keep"}
        channels, bases = pruning.channels(), pruning.bases()
        self.places = np.array([places[name] for name in names], dtype=np.intp)
        self.channels = np.array([channels[name] for name in names], dtype=np.float64)
        self.bases = np.array([bases[name] for name in names], dtype=np.float64)
        leasts = pruning.leasts()
        least = np.array([max(leasts[name], 1) for name in names], dtype=np.float64)
        self.least = np.ceil(least / self.bases) * self.bases
        self.most = self.channels // self.bases * self.bases
        index = {name: place for place, name in enumerate(names)}
        self.ties = [
            (np.array([index[name] for name in tied], dtype=np.intp), np.array([*sorted(shares), 1.0]))
            for tied, shares in pruning.ties()
            if shares
        ]

    def __call__(self, rows: Vector) -> Tensor:
        """``(n, genes)`` to ``(n, groups)``."""
        wanted = rows[:, self.places] * self.channels
        nearest = np.floor(wanted / self.bases + 0.5) * self.bases
        kept = np.minimum(np.maximum(nearest, self.least), self.most)
        # all, where none go or fewer would be too few
        whole = (wanted >= self.channels) | (self.least > self.channels)
        found = np.where(whole, self.channels, kept)
        for places, shares in self.ties:
            wanted = found[:, places].sum(1) / self.channels[places].sum()
            nearest = np.abs(shares[None] - wanted[:, None]).argmin(1)  # of equally near ones the smaller
            found[:, places] = np.round(shares[nearest][:, None] * self.channels[places])
        return torch.from_numpy(found)


def whole_costs(model: nn.Module, pruning: RepeatedPruning | None) -> dict[str, float]:
    """Of the float network as it is: ``params``, ``bytes`` and, where it can be cut, ``macs``."""
    params = float(parameter_count(model))
    found = {"params": params, "bytes": params * FLOAT_BITS / 8}
    return found if pruning is None else found | pruning.whole


def width_cost(genes: Sequence[Gene], pruning: RepeatedPruning, kind: Literal["macs", "params"]) -> Cost:
    """MACs or parameters by the shares that groups keep; what the form leaves out falls with the parameters."""
    form, sizes = pruning.form(kind), pruning.form("params")
    widths = Widths(genes, pruning, form.names)
    full = torch.tensor([float(pruning.channels()[name]) for name in form.names], dtype=torch.float64)
    rest = max(pruning.whole[kind] - float(form.values(full)), 0.0)
    share = rest / float(sizes.values(full))

    def cost(rows: Vector) -> Vector:
        k = widths(rows)
        found: Vector = (form.values(k) + share * sizes.values(k) if rest else form.values(k)).numpy()
        return found

    return cost


def byte_cost(
    model: nn.Module, genes: Sequence[Gene], layers: Sequence[Layer], pruning: RepeatedPruning | None
) -> Cost:
    """Bits of every weight that is quantised at its width, and 32 for each other parameter, in bytes.

    Layers that share one weight have it each at their own bits.
    """
    bits = {gene.layer: place for place, gene in enumerate(genes) if gene.kind == "w_bits"}
    searched = [each for each in layers if each.name in bits]
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {each.name: owners.get(id(model.get_submodule(each.name).weight), each.name) for each in searched}
    once = {held[each.name]: each for each in reversed(searched)}
    if pruning is None:
        sizes: Mapping[str, float] = {each.name: float(each.weights) for each in searched}
        rest = parameter_count(model) - sum(each.weights for each in once.values())

        def of_bits(rows: Vector) -> Vector:
            quantized = sum((rows[:, bits[name]] * size for name, size in sizes.items()), np.zeros(len(rows)))
            found: Vector = (quantized + FLOAT_BITS * rest) / 8
            return found

        return of_bits
    forms = {name: pruning.weight_form(parameter) for name, parameter in held.items()}
    every = pruning.form("params")
    widths = Widths(genes, pruning, every.names)

    def of_both(rows: Vector) -> Vector:
        k = widths(rows)
        count: dict[str, Vector] = {name: form.values(k).numpy() for name, form in forms.items()}
        left: Vector = every.values(k).numpy() - sum(count[each.name] for each in once.values())
        quantized = sum((rows[:, bits[name]] * size for name, size in count.items()), np.zeros(len(rows)))
        found: Vector = (quantized + FLOAT_BITS * left) / 8
        return found

    return of_both


@dataclass(frozen=True)
class Times:
    """Of one image on one thread, in milliseconds.

    Attributes:
        whole: of the network as it is.
        smallest: of the smallest that may be cut.
    """

    whole: float
    smallest: float


def times_of(
    model: nn.Module, example_inputs: tuple[Tensor, ...], genes: Sequence[Gene], pruning: RepeatedPruning
) -> Times:
    """Measure them."""
    from mcomp.metrics import model_latency

    low = {gene.layer: gene.low for gene in genes if gene.kind == "keep"}
    ends = [model, pruning.cut(low)]
    whole, smallest = (model_latency(one, example_inputs, batch=1, threads=1).median_ms for one in ends)
    return Times(whole, smallest)


def latency_cost(genes: Sequence[Gene], pruning: RepeatedPruning, times: Times) -> Cost:
    """Milliseconds of one image on one thread: a line through the whole network and the smallest that may be cut.

    Between the two time is taken to grow with the MACs; what is chosen in the end has to be measured.
    """
    macs = width_cost(genes, pruning, "macs")
    at_whole, at_low = pruning.whole["macs"], float(macs(np.array([[gene.low for gene in genes]], dtype=np.float64))[0])
    slope = max(times.whole - times.smallest, 0.0) / max(at_whole - at_low, 1.0)

    def cost(rows: Vector) -> Vector:
        found: Vector = times.smallest + slope * (macs(rows) - at_low)
        return found

    return cost
