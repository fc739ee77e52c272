"""A structural copy is what ``copy.deepcopy`` makes, but for what the memo replaces."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.pruning.copying import structural_copy


class _Odd(nn.Module):
    """Shared and nested attributes, a cycle, a module out of sight, and a buffer with a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.again = self.layer
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("table", torch.arange(6.0))
        self.view = self.table[:2]
        self.sizes = [1, 2, (3, 4)]
        self.same = self.sizes
        self.options: dict[Any, Any] = {"a": [self.sizes], 3: OrderedDict(b=1)}
        self.hidden = [nn.Linear(2, 2)]
        self.kinds = {"x", "y"}
        self.parents: list[nn.Module] = []
        self.parents.append(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.table[0]


def test_what_was_one_object_is_one_in_the_copy_and_none_is_shared() -> None:
    model = _Odd()
    made = structural_copy(model, {})
    assert isinstance(made, _Odd)
    assert made.layer is made.again
    assert made.layer is not model.layer
    assert made.sizes == model.sizes
    assert made.sizes is made.same is made.options["a"][0]
    assert made.sizes is not model.sizes
    assert made.hidden[0] is not model.hidden[0]
    assert made.parents[0] is made
    assert made.view.untyped_storage().data_ptr() == made.table.untyped_storage().data_ptr()
    assert made.table.data_ptr() != model.table.data_ptr()
    assert made.kinds == model.kinds
    assert made.kinds is not model.kinds


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(3, 4),
        nn.MultiheadAttention(8, 2),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.Sequential(OrderedDict(one=nn.Linear(2, 2), two=nn.ReLU())),
        _Odd(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_it_has_the_attributes_and_values_of_a_deep_copy(model: nn.Module) -> None:
    made, expected = structural_copy(model, {}), copy.deepcopy(model)
    assert list(made.state_dict()) == list(expected.state_dict())
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(made.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    for mine, other in zip(made.modules(), expected.modules(), strict=True):
        assert type(mine) is type(other)
        assert list(vars(mine)) == list(vars(other))
        assert all(type(vars(mine)[name]) is type(vars(other)[name]) for name in vars(mine))


def test_parameters_of_the_memo_are_shared() -> None:
    model = _Odd()
    made = structural_copy(model, {id(parameter): parameter for parameter in model.parameters()})
    assert all(mine is other for mine, other in zip(made.parameters(), model.parameters(), strict=True))


def test_a_class_that_copies_itself_does_so() -> None:
    class Own(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> Own:
            made = Own()
            made.copied = True
            return made

    made = structural_copy(nn.Sequential(Own()), {})
    assert made[0].copied  # type: ignore[index]
