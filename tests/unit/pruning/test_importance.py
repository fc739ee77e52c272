"""Scores against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcomp.errors import StageError
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


def of_filters(rows: list[list[float]], kind: str, **how: str) -> torch.Tensor:
    """Scores of a layer with these filters."""
    model = nn.Sequential(nn.Linear(len(rows[0]), len(rows)), nn.ReLU(), nn.Linear(len(rows), 2)).eval()
    with torch.no_grad():
        model.get_submodule("0").weight.copy_(torch.tensor(rows))
    groups = trace(model, (torch.randn(2, len(rows[0])),))
    return channel_importance(model, groups, kind, **how)["0"]  # type: ignore[arg-type]


def test_fpgm_is_the_sum_of_distances_to_the_other_filters() -> None:
    rows = [[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]  # 5, 4 and 3 apart
    torch.testing.assert_close(of_filters(rows, "fpgm", normalize="none"), torch.tensor([9.0, 8.0, 7.0]).double())
    torch.testing.assert_close(of_filters(rows, "fpgm"), torch.tensor([9 / 8, 1.0, 7 / 8]).double())


def test_fpgm_ranks_the_filter_in_the_middle_last_whatever_its_norm() -> None:
    rows = [[10.0, 10.0], [11.0, 10.0], [9.0, 10.0], [10.0, 11.0]]
    assert int(of_filters(rows, "fpgm").argmin()) == 0


def test_lamp_divides_by_all_that_is_no_smaller_in_the_layer() -> None:
    found = of_filters([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 2.0]], "lamp")
    torch.testing.assert_close(found, torch.tensor([1 / 18, 4 / 17, 1.0, 4 / 17]).double())


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [("none", [1.0, 2.0, 3.0]), ("mean", [0.5, 1.0, 1.5]), ("max", [1 / 3, 2 / 3, 1.0]), ("auto", [0.5, 1.0, 1.5])],
)
def test_scores_are_divided_by_what_was_asked_for(normalize: str, expected: list[float]) -> None:
    found = of_filters([[1.0], [2.0], [3.0]], "l1", normalize=normalize)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    if normalize == "none":
        again = of_filters([[1.0], [2.0], [3.0]], "l1", normalize="l2")
        torch.testing.assert_close(again, torch.tensor(expected).double() / 14**0.5)


def test_a_normalised_layer_of_zeros_scores_zero() -> None:
    assert of_filters([[0.0], [0.0]], "l2").tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("reduction", "of_both"), [("mean", (1, 1, 0.5)), ("sum", (1, 1, 1.0)), ("max", None)])
def test_coupled_layers_are_reduced_as_asked(reduction: str, of_both: tuple[float, float, float] | None) -> None:
    model = seeded(Net(lambda s, x: s.h(s.a(x) + s.b(x)), a=block(3, 8), b=block(3, 8), h=head(8)))
    found = channel_importance(model, trace(model, (images(),)), "bn_gamma", reduction=reduction)["a.0"]  # type: ignore[arg-type]
    a, b = (model.get_submodule(f"{name}.1").weight.detach().double() for name in "ab")
    expected = torch.maximum(a, b) if of_both is None else (a * of_both[0] + b * of_both[1]) * of_both[2]
    torch.testing.assert_close(found, expected)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.lstm(x)[0][:, -1])
        return y


def test_a_channel_with_several_filters_scores_what_they_score_together() -> None:
    model = Recurrent().eval()
    groups = trace(model, (torch.randn(2, 4, 3),))
    (name,) = (group.name for group in groups.prunable)
    norms = [
        weight.detach().abs().sum(1).reshape(4, 6) for weight in (model.lstm.weight_ih_l0, model.lstm.weight_hh_l0)
    ]
    how = {"normalize": "none"}
    mean = channel_importance(model, groups, "l1", **how)[name]  # type: ignore[arg-type]
    torch.testing.assert_close(mean, torch.cat(norms).mean(0).double())
    most = channel_importance(model, groups, "l1", reduction="max", **how)[name]  # type: ignore[arg-type]
    torch.testing.assert_close(most, torch.cat(norms).amax(0).double())


@pytest.mark.parametrize("kind", ["bn_gamma", "l1", "fpgm", "lamp"])
def test_weights_that_are_no_numbers_are_refused(kind: str) -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    with torch.no_grad():
        for parameter in model.get_submodule("0").parameters():
            parameter[0] = torch.nan
    with pytest.raises(StageError, match=r"NaN or infinite.*" + kind) as caught:
        channel_importance(model, trace(model, (images(),)), kind)  # type: ignore[arg-type]
    assert caught.value.code == "MC415"
