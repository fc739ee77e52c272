"""A search cuts one network many times: each cut is the one that `prune` makes of the same shares."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from mcomp import models
from mcomp.metrics import count
from mcomp.metrics.cost import parameter_count
from mcomp.pruning import prune
from mcomp.pruning.repeated import RepeatedPruning


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
