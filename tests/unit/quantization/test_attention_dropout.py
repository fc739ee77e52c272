"""Dropout inside functional attention works in training and rests in eval mode, as in the float network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import freeze, quantize
from mcomp.quantization.config import Route
from mcomp.quantization.routes import graph_by
from mcomp.quantization.tracing import trace

ROUTES: tuple[Route, ...] = ("symbolic", "export")


class Attending(nn.Module):
    """Self-attention by the function, its dropout by keyword, by position, or at the same chance in both modes."""

    def __init__(self, chance: str = "keyword") -> None:
        super().__init__()
        self.query, self.key, self.value, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        p = 0.5 if self.training else 0.0
        if self.chance == "position":
            attended = F.scaled_dot_product_attention(q, k, v, None, p)
        elif self.chance == "always":
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        output: Tensor = self.head(attended)
        return output


def rows() -> Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))


def twice(model: nn.Module) -> bool:
    """Whether two passes over the same rows answer alike."""
    with torch.no_grad():
        return torch.equal(model(rows()), model(rows()))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("chance", ["keyword", "position"])
def test_a_graph_drops_what_the_network_drops_in_either_mode(route: Route, chance: str) -> None:
    torch.manual_seed(0)
    model = Attending(chance).eval()
    graph = graph_by(route, model, (rows(),))
    for mode in (True, False):
        found = []
        for each in (graph.train(mode), model.train(mode)):
            torch.manual_seed(7)
            found.append(each(rows()))
        torch.testing.assert_close(*found)
    assert twice(graph.eval())
    assert not twice(graph.train())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("chance", ["keyword", "position"])
def test_quantised_attention_drops_in_training_and_not_in_eval_mode(route: Route, chance: str) -> None:
    torch.manual_seed(0)
    made = quantize(Attending(chance).eval(), (rows(),), scheme="lsq", route=route, calibration=[rows()])
    freeze(made)  # ranges that move would make two answers differ too
    assert twice(made.eval())
    assert not twice(made.train())


def test_a_chance_of_both_modes_stays_a_number() -> None:
    # of eval mode too, so that the graph cannot be held against the network
    made = trace(Attending("always").eval())
    assert "traced_dropouts" not in dict(made.named_children())
    assert not twice(made)


@pytest.mark.parametrize("route", ROUTES)
def test_a_module_of_attention_keeps_its_dropout(route: Route) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.attend(x, x, x, need_weights=False)[0])

    made = freeze(quantize(Whole().eval(), (rows(),), scheme="lsq", route=route, calibration=[rows()]))
    assert twice(made.eval())
    assert not twice(made.train())


def test_a_network_without_a_graph_in_training_says_that_its_dropout_rests() -> None:
    class Steered(Attending):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and float(x.mean()) > 0:
                x = -x
            return super().forward(x)

    with pytest.warns(UserWarning, match="no graph in training mode"):
        made = quantize(Steered().eval(), (rows(),), scheme="lsq", route="symbolic", calibration=[rows()])
    assert twice(freeze(made).train())


def test_a_network_without_attention_asks_for_no_second_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Attending):
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(F.relu(self.query(x)))
            return output

    modes: list[bool] = []
    forward = Plain.forward

    def seen(self: Plain, x: Tensor) -> Tensor:
        modes.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(Plain, "forward", seen)
    graph_by("symbolic", Plain().eval(), (rows(),))
    assert not any(modes)
