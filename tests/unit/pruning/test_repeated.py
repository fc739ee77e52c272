"""A search cuts one network many times: each cut is the one that `prune` makes of the same shares."""

from __future__ import annotations

import random

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mcomp import models
from mcomp.metrics import count
from mcomp.metrics.cost import parameter_count
from mcomp.pruning import prune
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search import genes_of
from mcomp.search.network_costs import width_cost


class Residual(nn.Module):
    """Coupled layers, a depthwise one and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.wide, self.deep = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.back, self.side = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.deep(self.wide(x))))
        found: torch.Tensor = self.head(torch.cat([x, self.side(x)], 1).mean((2, 3)))
        return found


def networks() -> list[tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 16, 16),)
    return [(Residual(), inputs), (models.build("nin_gc", width=0.25, num_classes=10), inputs)]


@pytest.mark.parametrize("network", [0, 1])
@pytest.mark.parametrize("regular", [1, 4])
def test_every_cut_is_that_of_prune_and_costs_what_was_predicted(network: int, regular: int) -> None:
    model, inputs = networks()[network]
    repeated = RepeatedPruning(model.eval(), inputs, regular=regular)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draws = random.Random(regular)
    for _ in range(4):
        keep = {group: draws.uniform(0.3, 1.0) for group in repeated.layers}
        told = {layer: keep[group] for group, layers in repeated.layers.items() for layer in layers}
        once = prune(model, inputs, regular=regular, importance="l1", keep=told)
        cut = repeated.cut(keep).eval()
        torch.testing.assert_close(cut(*inputs), once.model.eval()(*inputs), rtol=0, atol=0)
        assert repeated.params(keep) == parameter_count(cut) == once.params_after
        assert repeated.macs(keep) == count(cut, inputs).macs == once.macs_after
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_share_of_one_everywhere_is_the_network_itself() -> None:
    model, inputs = networks()[0]
    repeated = RepeatedPruning(model.eval(), inputs)
    keep = dict.fromkeys(repeated.layers, 1.0)
    torch.testing.assert_close(repeated.cut(keep).eval()(*inputs), model(*inputs), rtol=0, atol=0)
    assert repeated.params(keep) == parameter_count(model)


class TokenMixer(nn.Module):
    """Two layers across tokens, used once per channel, between layers across channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.tokens = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
        self.channels = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2)
        x = (x + self.tokens(x)).transpose(1, 2)
        found: Tensor = self.head(self.norm(x + self.channels(x)).mean(1))
        return found


class Attending(nn.Module):
    """Weights that only functions read, products of two activations, and widths that the code ties."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        found: Tensor = self.head((x + self.narrow(self.wide(x).relu())).mean(1))
        return found


@pytest.mark.parametrize("made", [TokenMixer, Attending])
def test_costs_are_exact_where_modules_do_not_tell_what_a_weight_is_used_for(made: type[nn.Module]) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 16, 16),)
    cuts = RepeatedPruning(made().eval(), inputs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        drawn = torch.rand(len(cuts.layers), generator=generator) * 0.7 + 0.3
        keep = dict(zip(cuts.layers, drawn.tolist(), strict=True))
        found = count(cuts.cut(keep), inputs)
        assert cuts.macs(keep) == pytest.approx(found.macs, abs=0.5)
        assert cuts.params(keep) == pytest.approx(found.params, abs=0.5)


def test_window_attention_whose_code_ties_widths_costs_what_is_counted() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([2, 2], 16, [1, 1], [2, 4], [2, 2], num_classes=5).eval()
    inputs = (torch.randn(2, 3, 16, 16),)
    cuts = RepeatedPruning(model, inputs)
    assert cuts.ties()
    genes = genes_of(list(cuts.layers), keep=(0.2, 1.0))
    macs = width_cost(genes, cuts, "macs")
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        drawn = (torch.rand(len(genes), generator=generator) * 0.8 + 0.2).double()
        keep = dict(zip(cuts.layers, drawn.tolist(), strict=True))
        found = count(cuts.cut(keep), inputs)
        assert cuts.macs(keep) == pytest.approx(found.macs, rel=1e-6)
        assert macs(drawn[None].numpy())[0] == pytest.approx(found.macs, rel=1e-6)
