from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mcomp.metrics import count, measure
from mcomp.models import build
from mcomp.models.registry import zoo_names
from mcomp.models.typical import typical

FLOAT = 4  # bytes


def hold_to_torch_and_to_what_torchvision_publishes(name: str) -> None:
    from torchvision.models import get_model, get_model_weights

    usual = typical(f"torchvision:{name}")
    assert usual is not None
    found = measure(build(f"torchvision:{name}", num_classes=1000, weightless=True), (torch.zeros(2, *usual.shape),))

    without_heads = {"aux_logits": False} if name in ("inception_v3", "googlenet") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = get_model(name, weights=None, **without_heads).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            model(torch.zeros(1, *usual.shape, device="meta"))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert found.macs * 2 == counter.get_total_flops() == 2 * sum(layer.macs for layer in found.layers)
    assert found.params == sum(layer.params for layer in found.layers) == sum(p.numel() for p in model.parameters())

    published = [
        weights.meta for weights in get_model_weights(name)
        if weights.transforms.keywords["crop_size"] == usual.shape[1]
    ]  # fmt: skip
    assert found.macs / 1e9 == pytest.approx(published[0]["_ops"], abs=0.00051)
    if name != "inception_v3":  # published with the auxiliary head, which is for training
        assert found.params == published[0]["num_params"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_16", "squeezenet1_1"])
def test_parameters_and_macs_are_torch_s_and_the_published_ones(name: str) -> None:
    hold_to_torch_and_to_what_torchvision_publishes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names("torchvision"))
def test_parameters_and_macs_are_so_for_every_classifier_of_torchvision(name: str) -> None:
    hold_to_torch_and_to_what_torchvision_publishes(name)


def test_a_convolution_has_the_macs_of_its_formula_and_the_rest_has_none() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 5))
    found = {layer.name: layer for layer in measure(model, (torch.zeros(3, 4, 9, 9),)).layers}
    assert {name: layer.macs for name, layer in found.items()} == {"0": 6 * 16 * (4 // 2) * 9, "1": 0, "3": 96 * 5}
    assert {name: layer.params for name, layer in found.items()} == {"0": 6 * 2 * 9 + 6, "1": 12, "3": 96 * 5 + 5}
    assert [layer.shape for layer in found.values()] == [(6, 4, 4), (6, 4, 4), (5,)]


def test_attention_stands_at_its_module_with_the_projection_that_is_never_called() -> None:
    tokens, width = 7, 12
    model = nn.TransformerEncoderLayer(width, 3, 20, batch_first=True)
    found = {layer.name: layer for layer in measure(model, (torch.randn(2, tokens, width),)).layers}
    assert found["self_attn"].macs == 4 * tokens * width**2 + 2 * tokens**2 * width
    assert found["self_attn"].params == 4 * width**2 + 4 * width
    assert "self_attn.out_proj" not in found


class Functional(nn.Module):
    """Multiplies outside of any layer, by a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x)) @ self.weight


def test_what_no_layer_holds_stands_at_the_module_whose_forward_it_is_and_calls_add_up() -> None:
    found = {layer.name: layer for layer in measure(Functional(), (torch.zeros(2, 3),)).layers}
    assert (found[""].macs, found[""].params, found[""].kind) == (15, 15, "Functional")
    assert (found["inner"].macs, found["inner"].params) == (2 * 9, 12)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.integers(1, 16))
@settings(max_examples=20, deadline=None)
def test_a_chain_needs_the_largest_two_neighbours(widths: list[int], bits: int) -> None:
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    found = measure(model, (torch.zeros(1, widths[0]),), a_bits=bits)
    neighbours = [math.ceil(a * bits / 8) + math.ceil(b * bits / 8) for a, b in itertools.pairwise(widths)]
    assert found.peak_bytes == max(neighbours)
    assert [layer.peak_bytes for layer in found.layers] == neighbours
    assert found.peak_at == str(neighbours.index(max(neighbours)))


class Residual(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.wide, self.narrow, self.relu = nn.Linear(10, 30), nn.Linear(30, 10), nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.relu(self.wide(x)))


@pytest.mark.parametrize("inplace", [True, False])
def test_what_waits_for_an_addition_is_counted_and_an_activation_writes_over_its_input(inplace: bool) -> None:
    found = measure(Residual(inplace), (torch.zeros(4, 10),))
    assert [layer.peak_bytes for layer in found.layers] == [FLOAT * (10 + 30), FLOAT * (10 + 30 + 10)]
    assert found.peak_bytes == FLOAT * 50


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early, self.middle, self.late = nn.Linear(4, 9), nn.Linear(4, 8), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.early(x), self.late(self.middle(x))


def test_an_output_lasts_to_the_end() -> None:
    peaks = [layer.peak_bytes for layer in measure(TwoAnswers(), (torch.zeros(1, 4),)).layers]
    assert peaks == [FLOAT * (4 + 9), FLOAT * (4 + 9 + 8), FLOAT * (9 + 8 + 7)]


class Views(nn.Module):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) if self.function == "view" else x.flatten(1).flip(1))


def test_a_view_needs_no_memory_and_a_copy_does() -> None:
    view, copy = (measure(Views(name), (torch.zeros(1, 2, 3),)).peak_bytes for name in ("view", "copy"))
    assert (view, copy) == (FLOAT * (6 + 2), FLOAT * (6 + 6))


def test_what_nobody_reads_is_not_counted_such_as_the_indices_of_a_max_pooling() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 1))
    assert measure(model, (torch.zeros(1, 1, 4, 4),)).peak_bytes == FLOAT * (16 + 4)


def test_weights_take_the_bits_they_are_given_and_biases_and_norms_four_bytes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    at_three = measure(model, (torch.zeros(1, 3, 4, 4),), w_bits=3)
    assert at_three.weight_bytes == math.ceil(3 * 5 * 9 * 3 / 8) + FLOAT * 5 + FLOAT * 10
    assert measure(model.half(), (torch.zeros(1, 3, 4, 4).half(),)).weight_bytes == 2 * at_three.params


def test_a_network_whose_forward_reads_values_is_run() -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum().item() > 0 else x

    found = measure(Reads(3, 4), (torch.ones(2, 3),))
    assert (found.macs, found.params, found.peak_bytes) == (12, 16, FLOAT * 7)


def test_measuring_agrees_with_counting_and_changes_nothing() -> None:
    model = build("nin_gc", width=0.2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = (torch.randn(2, 3, 16, 16),)
    found, cost = measure(model, inputs), count(model, inputs)
    assert (found.params, found.macs) == (cost.params, cost.macs)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
