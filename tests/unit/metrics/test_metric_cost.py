from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mcomp.metrics import count
from mcomp.models import build

# counted by hand or published with the models: resnet18 1.814 G, mobilenet_v2 0.301 G
PUBLISHED = {"resnet18": (11_689_512, 1_814_073_344), "mobilenet_v2": (3_504_872, 300_774_272)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = build_on_meta(name)
    cost = count(model, (torch.zeros(2, 3, 224, 224),))
    assert (cost.params, cost.macs) == PUBLISHED[name]


def build_on_meta(name: str) -> nn.Module:
    from torchvision.models import get_model

    model = get_model(name, weights=None)
    assert isinstance(model, nn.Module)
    return model


def test_attention_is_counted_although_it_has_a_fast_path() -> None:
    width, tokens = 16, 5
    block = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
    linears = tokens * (4 * width * width + 2 * width * 32)
    assert count(block, (torch.randn(2, tokens, width),)).macs == linears + 2 * tokens * tokens * width


def test_macs_are_those_of_one_sample() -> None:
    model = build("nin_gc", width=0.1)
    assert count(model, (torch.zeros(1, 3, 16, 16),)) == count(model, (torch.zeros(5, 3, 16, 16),))


class Folded(nn.Module):
    """As a layer is after folding: integers in a buffer, a scale, and a forward that reads a value."""

    weight_buffers = ("weight_int",)
    weight_int: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight_int", torch.ones(4, 3, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight_int * self.scale.item(), self.bias)


def test_integer_weights_count_as_parameters_and_a_forward_that_reads_values_is_run() -> None:
    cost = count(nn.Sequential(Folded()), (torch.ones(2, 3),))
    assert (cost.params, cost.macs) == (4 * 3 + 4, 12)


def test_a_shared_weight_counts_once() -> None:
    layer = nn.Linear(3, 3)
    assert count(nn.Sequential(layer, layer), (torch.ones(1, 3),)).params == 12


def test_counting_changes_nothing() -> None:
    model = build("lenet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, (torch.randn(2, 3, 8, 8),))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
