"""What a pruning can end with, told without its scores, holds whatever the scores are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcomp.errors import StageError
from mcomp.metrics import count
from mcomp.models import build
from mcomp.pruning import prune
from mcomp.pruning.bounds import Reach, reach
from tests.unit.pruning.pruning_nets import Chain, chains, images, seeded

SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
SCOPES = ["global", "per_layer", "isomorphic"]
RATIOS = st.sampled_from([0.2, 0.5, 0.8])


def with_dead_scales(model: nn.Module, share: float, seed: int) -> nn.Module:
    """Some scales exactly zero, as a penalty leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.weight.mul_(torch.rand(norm.weight.shape, generator=generator) >= share)
    return model


def holds(found: Reach, params: int, macs: int) -> bool:
    return found.params[0] <= params <= found.params[1] and found.macs[0] <= macs <= found.macs[1]


def check_inside(model: Chain, ratio: float, regular: int, scope: str, least: int, ties: bool, dead: float) -> None:
    x = (images(count=3),)
    how = {"regular": regular, "scope": scope, "min_channels": least}
    found = reach(model, x, ratio, ties=ties, **how)
    for seed in range(2):
        trained = with_dead_scales(seeded(model, seed), dead, seed)
        try:
            result = prune(trained, x, ratio=ratio, **how)
        except StageError:  # dead scales can leave nothing for the self-check to see
            assume(False)
        assert holds(found, result.params_after, result.macs_after)
        if found.certain:
            assert found.params[0] == found.params[1] == result.params_after


@settings(max_examples=15, **SETTINGS)
@given(chains(), RATIOS, st.sampled_from([1, 2, 4]), st.sampled_from(SCOPES), st.sampled_from([1, 5]))
def test_what_is_pruned_lies_in_the_range_told_before(
    model: Chain, ratio: float, regular: int, scope: str, least: int
) -> None:
    check_inside(model, ratio, regular, scope, least, ties=False, dead=0.0)


@settings(max_examples=8, **SETTINGS)
@given(chains(), RATIOS, st.sampled_from([1, 4]), st.sampled_from(SCOPES))
def test_scales_that_tie_at_zero_are_in_the_range_as_well(model: Chain, ratio: float, regular: int, scope: str) -> None:
    check_inside(model, ratio, regular, scope, 1, ties=True, dead=0.6)


@pytest.mark.slow
@settings(max_examples=300, **SETTINGS)
@given(
    chains(),
    st.floats(0.05, 0.95),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(SCOPES),
    st.sampled_from([1, 3, 8]),
    st.booleans(),
)
def test_three_hundred_prunings_lie_in_the_range_told_before(
    model: Chain, ratio: float, regular: int, scope: str, least: int, ties: bool
) -> None:
    check_inside(model, ratio, regular, scope, least, ties, 0.5 if ties else 0.0)


def test_a_layer_by_layer_cut_is_certain() -> None:
    model = build("nin", width=0.25, in_shape=(3, 16, 16))
    x = (torch.randn(2, 3, 16, 16),)
    found = reach(model, x, 0.4, scope="per_layer", ties=False)
    result = prune(seeded(model), x, ratio=0.4, scope="per_layer")
    assert found.certain
    assert found.narrowest is not None
    assert found.params == (result.params_after, result.params_after)
    assert count(found.narrowest, x).macs == result.macs_after


def test_a_global_cut_is_bounded_well_below_the_whole_network() -> None:
    model = build("nin_gc", width=0.25, in_shape=(3, 16, 16))
    x = (torch.randn(2, 3, 16, 16),)
    whole = count(model, x)
    found = reach(model, x, 0.5, regular=4, ties=False)
    assert not found.certain
    assert 0 < found.params[0] < found.params[1] < 0.85 * whole.params
    assert found.macs[1] < whole.macs


def test_a_network_that_refuses_a_width_may_stay_whole() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 4)
            self.last = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.out(self.norm(self.conv(x)).relu().view(-1, 8 * 36)))
            return y

    model, x = Fixed().eval(), (images(),)
    found = reach(model, x, 0.5, ties=False)
    for seed in range(3):
        result = prune(seeded(model, seed), x, ratio=0.5)
        assert holds(found, result.params_after, result.macs_after)


def test_listed_layers_are_certain_whatever_the_others_do() -> None:
    model, x = build("nin", width=0.25, in_shape=(3, 16, 16)), (torch.randn(2, 3, 16, 16),)
    alone = {"keep": {"features.0.*": 0.5, "features.1.*": 12}, "regular": 4}
    found = reach(model, x, None, ties=False, **alone)
    result = prune(seeded(model), x, **alone)
    assert found.certain
    assert found.params == (result.params_after, result.params_after)
    found = reach(model, x, 0.5, ties=False, **alone)
    for seed in range(3):
        result = prune(seeded(model, seed), x, 0.5, **alone)
        assert holds(found, result.params_after, result.macs_after)
    assert not found.certain
