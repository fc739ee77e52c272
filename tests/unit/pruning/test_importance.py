"""Scores against their definitions."""

from __future__ import annotations

import torch
from torch import nn

from mcomp.pruning import trace
from mcomp.pruning.importance import channel_importance
from tests.unit.pruning.pruning_nets import Net, block, head, images, seeded


def test_bn_gamma_is_the_magnitude_of_the_scale() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    with torch.no_grad():
        model.get_submodule("0.1").weight[2] *= -1
    found = channel_importance(model, trace(model, (images(),)), "bn_gamma")
    assert torch.equal(found["0.0"].float(), model.get_submodule("0.1").weight.detach().abs())


def test_filter_norms_are_relative_to_the_mean_of_their_layer() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), head(8)))
    weight = model.get_submodule("0").weight.detach().flatten(1)
    groups = trace(model, (images(),))
    for kind, norm in (("l1", weight.abs().sum(1)), ("l2", weight.square().sum(1).sqrt())):
        found = channel_importance(model, groups, kind)["0"]  # type: ignore[arg-type]
        torch.testing.assert_close(found, (norm / norm.mean()).double(), rtol=1e-5, atol=0)


def test_coupled_layers_share_the_mean_of_their_scores() -> None:
    model = seeded(Net(lambda s, x: s.h(s.a(x) + s.b(x)), a=block(3, 8), b=block(3, 8), h=head(8)))
    found = channel_importance(model, trace(model, (images(),)), "bn_gamma")
    both = (model.get_submodule("a.1").weight + model.get_submodule("b.1").weight).detach() / 2
    torch.testing.assert_close(found["a.0"].float(), both)


def test_a_layer_without_a_norm_has_no_gamma_score() -> None:
    model = seeded(nn.Sequential(block(3, 8), nn.Conv2d(8, 8, 1), nn.ReLU(), head(8)))
    groups = trace(model, (images(),))
    assert set(channel_importance(model, groups, "bn_gamma")) == {"0.0"}
    assert set(channel_importance(model, groups, "l2")) == {"0.0", "1"}


def test_random_scores_repeat_with_their_seed() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    groups = trace(model, (images(),))
    first, again, other = (channel_importance(model, groups, "random", seed)["0.0"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
