from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import UsageError
from mcomp.metrics import sqnr_db, top1_agreement


@given(a=st.lists(st.integers(0, 3), min_size=1, max_size=30), b=st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_agreement_is_the_percentage_of_equal_predictions(a: list[int], b: list[int]) -> None:
    b = b[: len(a)]
    expected = 100 * sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    assert top1_agreement(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
    logits = torch.nn.functional.one_hot(torch.tensor(a), 4).float()
    assert top1_agreement(logits, torch.tensor(b)) == pytest.approx(expected)


@given(bits=st.integers(4, 12))
def test_rounding_to_b_bits_costs_six_decibel_per_bit(bits: int) -> None:
    signal = torch.rand(20_000, generator=torch.Generator().manual_seed(bits)) * 2 - 1
    step = 2.0 ** (1 - bits)
    assert sqnr_db(signal, (signal / step).round() * step) == pytest.approx(6.02 * bits, abs=0.3)


def test_the_ends_of_the_scale_are_infinite() -> None:
    assert sqnr_db(torch.ones(3), torch.ones(3)) == math.inf
    assert sqnr_db(torch.zeros(3), torch.ones(3)) == -math.inf


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="2 predictions with 3"):
        top1_agreement(torch.zeros(2), torch.zeros(3))
    with pytest.raises(UsageError):
        sqnr_db(torch.zeros(2), torch.zeros(3))
