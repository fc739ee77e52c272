"""The space that a network spans: genes of its layers, budgets from its own sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.pruning.cost_form import CostForm
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.budgets import Budget, Vector, average_bits
from mcomp.search.genes import Gene, Kind, genes_of
from mcomp.search.network import Layer, layers_of
from mcomp.search.space import Space

#: Of a parameter that is not quantised.
FLOAT_BITS = 32


@dataclass(frozen=True)
class Budgets:
    """What every candidate keeps; None where nothing is bounded.

    Attributes:
        avg_bit_weights: mean bits of the weights, each layer weighted by its elements.
        avg_bit_fm: mean bits of what layers read, weighted by the elements of one sample.
        macs: multiply-accumulates of one sample: a count.
        params: parameters: a count.
        bytes: of all parameters, at the bits that they have.
    """

    avg_bit_weights: float | None = None
    avg_bit_fm: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class NetworkSpace:
    """Genes and budgets of one network.

    Attributes:
        space: for an optimiser.
        layers: those whose bits are searched, in order of execution.
        pruning: cuts of the network; None where no share is searched.
    """

    space: Space
    layers: tuple[Layer, ...]
    pruning: RepeatedPruning | None


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
    budgets: Budgets = Budgets(),  # noqa: B008  frozen
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

    Raises:
        UsageError: MC480, nothing is left to search; MC481, a pinned layer that is not there; MC482, no candidate keeps
            a budget, and the nearest that can be kept.
        StageError: MC486, the network calls no layer.
    """
    layers = layers_of(model, example_inputs)
    held = {name: dict(kinds) for name, kinds in (pins or {}).items()}
    kinds: list[tuple[Kind, tuple[int, int]]] = []
    kinds += [("w_bits", w_bits)] if w_bits is not None else []
    kinds += [("a_bits", a_bits)] if a_bits is not None else []
    if first_last_bits is not None:
        for layer in {layers[0].name, layers[-1].name}:
            for kind, _ in kinds:
                held.setdefault(layer, {}).setdefault(kind, first_last_bits)
    groups = list(pruning.layers) if pruning is not None and keep is not None else []
    _check_pins(held, [layer.name for layer in layers], groups)
    genes: list[Gene] = []
    bit_pins = {name: {k: v for k, v in own.items() if k != "keep"} for name, own in held.items()}
    if kinds:
        genes += genes_of(
            [layer.name for layer in layers], w_bits=w_bits, a_bits=a_bits, pins={n: o for n, o in bit_pins.items() if o}
        )
    if groups and keep is not None:
        share_pins = {name: {"keep": own["keep"]} for name, own in held.items() if "keep" in own}
        genes += genes_of(groups, keep=keep, pins=share_pins)
    return NetworkSpace(
        Space(genes, _budgets(model, genes, layers, pruning if groups else None, budgets)),
        tuple(layers),
        pruning if groups else None,
    )


def _check_pins(held: Mapping[str, Mapping[str, float]], layers: Sequence[str], groups: Sequence[str]) -> None:
    from mcomp.suggest import did_you_mean, listed

    for name, own in held.items():
        known = groups if set(own) == {"keep"} else layers
        if name not in known:
            what = "no group of channels" if set(own) == {"keep"} else "no layer"
            raise UsageError(
                f"`pins`: {what} is called `{name}`",
                code="MC481",
                hint=did_you_mean(name, known) or f"there are {listed(known[:8])} …",
            )


def _budgets(
    model: nn.Module,
    genes: Sequence[Gene],
    layers: Sequence[Layer],
    pruning: RepeatedPruning | None,
    asked: Budgets,
) -> list[Budget]:
    found: list[Budget] = []
    if asked.avg_bit_weights is not None:
        found.append(average_bits(genes, "w_bits", {each.name: each.weights for each in layers}, asked.avg_bit_weights))
    if asked.avg_bit_fm is not None:
        found.append(average_bits(genes, "a_bits", {each.name: each.inputs for each in layers}, asked.avg_bit_fm))
    for kind in ("macs", "params"):
        limit = getattr(asked, kind)
        if limit is None:
            continue
        if pruning is None:
            raise UsageError(
                f"`{kind}` is bounded, and no share of channels is searched",
                code="MC482",
                hint="give `keep` a range, e.g. `keep: [0.3, 1.0]`, or drop the budget",
            )
        found.append(Budget(kind, float(limit), _by_width(genes, pruning, kind)))
    if asked.bytes is not None:
        found.append(Budget("bytes", float(asked.bytes), _bytes(model, genes, layers, pruning)))
    return found


class _Widths:
    """Widths of the groups from the genes, rounded as a cut rounds them."""

    def __init__(self, genes: Sequence[Gene], pruning: RepeatedPruning, names: Sequence[str]) -> None:
        places = {gene.layer: place for place, gene in enumerate(genes) if gene.kind == "keep"}
        channels, bases = pruning.channels(), pruning.bases()
        self.places = np.array([places[name] for name in names])
        self.channels = np.array([channels[name] for name in names], dtype=np.float64)
        self.bases = np.array([bases[name] for name in names], dtype=np.float64)

    def __call__(self, rows: Vector) -> Tensor:
        return torch.from_numpy(rows[:, self.places] * self.channels)


def _by_width(genes: Sequence[Gene], pruning: RepeatedPruning, kind: str) -> object:
    form: CostForm = pruning.form(kind)  # type: ignore[arg-type]
    widths = _Widths(genes, pruning, form.names)
    full = torch.tensor([float(pruning.channels()[name]) for name in form.names], dtype=torch.float64)
    sizes = pruning.form("params")
    rest = max(pruning.whole[kind] - float(form.values(full)), 0.0)  # products that no weight has a part in
    share = rest / float(sizes.values(full))

    def cost(rows: Vector) -> Vector:
        k = widths(rows)
        found: Vector = (form.values(k) + share * sizes.values(k)).numpy() if rest else form.values(k).numpy()
        return found

    return cost


def _bytes(
    model: nn.Module, genes: Sequence[Gene], layers: Sequence[Layer], pruning: RepeatedPruning | None
) -> object:
    """Bits of every weight at its width, and float for all other parameters."""
    bits = {gene.layer: place for place, gene in enumerate(genes) if gene.kind == "w_bits"}
    total = float(sum(each.numel() for each in model.parameters()))
    if pruning is None:
        sizes = {each.name: float(each.weights) for each in layers if each.name in bits}
        rest = total - sum(sizes.values())
        return lambda rows: (sum(rows[:, bits[name]] * size for name, size in sizes.items()) + FLOAT_BITS * rest) / 8
    forms = {each.name: pruning.weight_form(f"{each.name}.weight") for each in layers if each.name in bits}
    every = pruning.form("params")
    widths = _Widths(genes, pruning, every.names)

    def cost(rows: Vector) -> Vector:
        k = widths(rows)
        count = {name: form.values(k).numpy() for name, form in forms.items()}
        rest = every.values(k).numpy() - sum(count.values())
        found: Vector = (sum(rows[:, bits[name]] * size for name, size in count.items()) + FLOAT_BITS * rest) / 8
        return found

    return cost
