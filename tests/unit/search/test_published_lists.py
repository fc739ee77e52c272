"""The lists that searches of the lineage printed, held against ResNet-18: what their ×5.6, 2.97 and 2.85 mean.

The ×5.6 is a mean: the shares weighted by what each layer costs alone, its inputs uncut. A network that is cut to these
shares loses the inputs of each layer as well, about the square of it, and its coupled layers have one width.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import nn

from mcomp import pruning
from mcomp.errors import UsageError
from mcomp.metrics import measure
from mcomp.models import build
from mcomp.search import average_bits, genes_of
from mcomp.search.genes import Kind
from mcomp.search.network import Layer, layers_of
from tests.unit.search.published_lists import A_BITS, KEEP, W_BITS

NETWORKS = ("resnet18", "torchvision:resnet18")


@cache
def measured(name: str) -> tuple[list[Layer], dict[str, int]]:
    """Layers in order, and the MACs of each at 224 x 224; nothing is computed."""
    model = build(name, num_classes=1000, weightless=True)
    found = measure(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    layers = layers_of(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    return layers, {layer.name: layer.macs for layer in found.layers}


def costs(model: nn.Module) -> tuple[int, int]:
    found = measure(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    return found.params, found.macs


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("kind", "bits", "published"), [("w_bits", W_BITS, 2.97), ("a_bits", A_BITS, 2.85)])
def test_the_bits_have_their_published_means(name: str, kind: Kind, bits: list[int], published: float) -> None:
    layers, _ = measured(name)
    genes = genes_of([layer.name for layer in layers], **{kind: (1, 8)})
    sizes = {layer.name: layer.weights if kind == "w_bits" else layer.inputs for layer in layers}
    budget = average_bits(genes, kind, sizes, published)
    assert budget.value(torch.tensor(bits, dtype=torch.float64).numpy()) == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_shares_weighted_by_the_cost_of_each_layer_alone_leave_a_part_in_5_6(name: str) -> None:
    layers, macs = measured(name)
    shares = dict(zip([layer.name for layer in layers], KEEP[:21], strict=True))
    weights = {layer.name: layer.weights for layer in layers}
    for cost in (weights, macs):
        left = math.fsum(shares[layer] * cost[layer] for layer in shares)
        assert sum(cost[layer] for layer in shares) / left == pytest.approx(5.6, abs=0.05)


def test_the_variant_of_caffe_has_a_layer_for_the_last_share() -> None:
    layers, _ = measured("resnet18_caffe")
    assert len(layers) == len(KEEP) == len(measured("resnet18")[0]) + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_cut_to_the_shares_is_smaller_by_far_for_its_layers_lose_inputs_too(name: str) -> None:
    model = build(name, num_classes=1000)
    found = pruning.prune(model, (torch.randn(2, 3, 32, 32),), keep=KEEP[:21])
    factors = [before / after for before, after in zip(costs(model), costs(found.model), strict=True)]
    assert factors == pytest.approx([26.5, 24.2], abs=0.1)
    coupled = [note for note in found.notes if note.startswith("coupled layers keep one share, the mean")]
    assert len(coupled) == 4  # one for each stage of the network


def test_widths_cut_to_the_roots_of_the_shares_come_near_the_published_factor() -> None:
    model = build("resnet18", num_classes=1000)
    found = pruning.prune(model, (torch.randn(2, 3, 32, 32),), keep=[math.sqrt(share) for share in KEEP[:21]])
    factors = [before / after for before, after in zip(costs(model), costs(found.model), strict=True)]
    assert factors == pytest.approx([5.43, 5.32], abs=0.01)


def test_a_physical_cut_costs_what_its_widths_say() -> None:
    """The factors follow from the mean share of coupled layers alone: counted here by hand."""

    def mean(*places: int) -> float:
        return sum(KEEP[place] for place in places) / len(places)

    held = [
        round(64 * mean(0, 2, 4)),
        round(128 * mean(6, 7, 9)),
        round(256 * mean(11, 12, 14)),
        round(512 * mean(16, 17, 19)),
    ]
    inner = [[64, 1, 3], [128, 5, 8], [256, 10, 13], [512, 15, 18]]
    side = [56, 28, 14, 7]
    params, macs = 49 * 3 * held[0], 49 * 3 * held[0] * 112**2
    norms = held[0]
    for stage, (width, *places) in enumerate(inner):
        before = held[max(stage - 1, 0)]
        for block, place in enumerate(places):
            own = round(width * KEEP[place])
            given = before if block == 0 else held[stage]
            convs = 9 * given * own + 9 * own * held[stage]
            norms += own + held[stage]
            if stage and not block:
                convs += given * held[stage]
                norms += held[stage]
            params, macs = params + convs, macs + convs * side[stage] ** 2
    params, macs = params + 1000 * held[3] + 1000 + 2 * norms, macs + 1000 * held[3]
    found = pruning.prune(build("resnet18", num_classes=1000), (torch.randn(2, 3, 32, 32),), keep=KEEP[:21])
    assert costs(found.model) == (params, macs)


def test_a_list_of_the_other_variant_is_refused_with_both_lengths() -> None:
    with pytest.raises(UsageError, match=r"lists 22 shares; the network has 21 layers, 20 without"):
        pruning.prune(build("resnet18"), (torch.randn(2, 3, 32, 32),), keep=KEEP)
