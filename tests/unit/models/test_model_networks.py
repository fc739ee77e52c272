from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from mcomp.models import ChannelShuffle, build, lenet, nin, nin_gc
from mcomp.models.rounding import round_to_multiple

NIN_LAYERS = [
    (5, 3, 192, 1),
    (1, 192, 160, 1),
    (1, 160, 96, 1),
    (5, 96, 192, 1),
    (1, 192, 192, 1),
    (1, 192, 192, 1),
    (3, 192, 192, 1),
    (1, 192, 192, 1),
    (1, 192, 10, 1),
]
NIN_GC_LAYERS = [
    (5, 3, 256, 1),
    (1, 256, 256, 2),
    (1, 256, 256, 2),
    (3, 256, 512, 16),
    (1, 512, 512, 4),
    (1, 512, 512, 4),
    (3, 512, 1024, 32),
    (1, 1024, 1024, 8),
    (1, 1024, 10, 1),
]


@pytest.mark.parametrize(("network", "layers"), [(nin, NIN_LAYERS), (nin_gc, NIN_GC_LAYERS)])
def test_parameters_are_those_of_the_channel_plan(network: object, layers: list[tuple[int, int, int, int]]) -> None:
    expected = sum(k * k * (i // g) * o + 2 * o for k, i, o, g in layers)  # weights, and gamma and beta
    assert sum(p.numel() for p in network().parameters()) == expected  # type: ignore[operator]


def test_lenet_has_the_parameters_of_two_convolutions_and_three_linear_layers() -> None:
    convolutions = 3 * 6 * 25 + 2 * 6 + 6 * 16 * 25 + 2 * 16
    linears = (16 * 4 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert sum(p.numel() for p in lenet().parameters()) == convolutions + linears


def test_nin_gc_groups_are_the_original_ones() -> None:
    groups = [m.groups for m in nin_gc().modules() if isinstance(m, nn.Conv2d)]
    assert groups == [1, 2, 2, 16, 4, 4, 32, 8, 1]


@given(width=st.floats(0.01, 2), classes=st.integers(2, 7))
@settings(max_examples=15, deadline=None)
def test_every_width_gives_channels_that_both_neighbours_groups_divide(width: float, classes: int) -> None:
    convs = [m for m in nin_gc(classes, width).modules() if isinstance(m, nn.Conv2d)]
    for conv, consumer in itertools.pairwise(convs):
        assert conv.out_channels % math.lcm(conv.groups, consumer.groups) == 0
    assert convs[-1].out_channels == classes


@given(channels=st.floats(0.1, 5000), base=st.integers(1, 64))
def test_rounding_moves_a_width_by_half_a_base_at_most(channels: float, base: int) -> None:
    rounded = round_to_multiple(channels, base)
    assert rounded % base == 0
    assert rounded == base or abs(rounded - channels) <= base / 2


@pytest.mark.parametrize("name", ["nin", "nin_gc", "lenet"])
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 28), (33, 17)])
def test_every_network_takes_any_size_and_gives_one_logit_per_class(name: str, size: tuple[int, int]) -> None:
    model = build(name, num_classes=7, width=0.1, in_channels=1)
    assert model(torch.randn(2, 1, *size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["nin", "nin_gc", "lenet"])
def test_a_trace_of_a_network_runs_with_another_batch_and_size(name: str) -> None:
    model = build(name, width=0.1)
    traced = fx.symbolic_trace(model)
    for shape in ((1, 3, 8, 8), (3, 3, 16, 16)):
        x = torch.randn(shape)
        assert torch.equal(traced(x), model(x))


@given(groups=st.integers(1, 6), per_group=st.integers(1, 6))
def test_a_shuffle_moves_channel_gn_plus_i_to_i_groups_plus_g(groups: int, per_group: int) -> None:
    x = torch.arange(groups * per_group).view(1, -1, 1, 1).expand(2, -1, 2, 3)
    y = ChannelShuffle(groups)(x)
    for g in range(groups):
        for i in range(per_group):
            assert y[0, i * groups + g, 0, 0] == g * per_group + i


@given(groups=st.integers(1, 6), per_group=st.integers(1, 6))
def test_shuffling_back_with_the_other_factor_restores_the_order(groups: int, per_group: int) -> None:
    x = torch.randn(1, groups * per_group, 2, 2)
    assert torch.equal(ChannelShuffle(per_group)(ChannelShuffle(groups)(x)), x)
