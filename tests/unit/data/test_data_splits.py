from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.data import Data, load
from mcomp.data.draws import draws, permutation, uniform
from mcomp.data.splits import Split
from mcomp.data.stratify import choose, hold_out

LABELS = st.lists(st.integers(0, 4), min_size=30, max_size=200).map(np.array)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


def all_of(split: Split, **options: object) -> tuple[Tensor, Tensor]:
    batches = list(split.batches(**options))  # type: ignore[arg-type]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@given(labels=LABELS, fraction=st.floats(0.05, 0.5))
def test_holding_out_parts_the_samples_and_keeps_each_class_in_proportion(labels: np.ndarray, fraction: float) -> None:
    counts = np.bincount(labels)
    assume(counts[counts > 0].min() >= 3)
    stay, held = hold_out(labels, fraction, "test")
    assert sorted([*stay, *held]) == list(range(len(labels)))
    assert len(held) == math.ceil(len(labels) * fraction - 1e-9)
    for label in np.unique(labels):
        exact = (labels == label).sum() * len(held) / len(labels)
        assert abs((labels[held] == label).sum() - exact) < 1


@given(labels=LABELS, n=st.integers(0, 30))
def test_choosing_gives_exactly_n_different_samples_in_order(labels: np.ndarray, n: int) -> None:
    chosen = choose(labels, n)
    assert len(set(chosen.tolist())) == n
    assert np.array_equal(chosen, np.sort(chosen))


@given(n=st.integers(0, 300), key=st.lists(st.integers(-(2**70), 2**70), max_size=3))
def test_a_permutation_holds_every_number_once(n: int, key: list[int]) -> None:
    assert sorted(permutation(n, *key).tolist()) == list(range(n))


def test_draws_are_even_and_those_of_neighbouring_keys_unrelated() -> None:
    index = np.arange(20_000)
    columns = [uniform(index, seed, purpose, epoch) for seed in (0, 1) for purpose in (1, 2) for epoch in (0, 1)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert abs(np.mean(columns) - 0.5) < 0.005
    assert np.abs(correlation).max() < 0.04


def test_a_draw_is_the_same_on_every_machine() -> None:
    # SplitMix64 of state 0 begins 0xe220a8397b1dcdaf: the first output of Vigna's reference implementation
    assert int(draws(np.array([0]))[0]) == 0xE220A8397B1DCDAF
    assert permutation(8, 3, 1).tolist() == [0, 1, 7, 3, 5, 6, 4, 2]


def test_the_splits_share_no_sample_and_no_seed_moves_them(digits: Data) -> None:
    parts = [set(split.indices.tolist()) for split in (digits.train, digits.val, digits.test)]
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert len(set.union(*parts)) == 1797
    assert torch.equal(load("digits", seed=5, image_size=16).test.labels, digits.test.labels)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_resumed_by_skip_goes_on_with_the_same_batches(
    digits: Data, seed: int | None, drop_last: bool
) -> None:
    options = {"seed": seed, "epoch": 2, "augment": True, "drop_last": drop_last}
    whole = list(digits.train.batches(100, **options))  # type: ignore[arg-type]
    rest = list(digits.train.batches(100, skip=5, **options))  # type: ignore[arg-type]
    assert len(whole) == digits.train.num_batches(100, drop_last) == (12 if drop_last else 13)
    assert len(rest) == len(whole) - 5
    for (x, y), (again, labels) in zip(whole[5:], rest, strict=True):
        assert torch.equal(x, again)
        assert torch.equal(y, labels)
    assert not list(digits.train.batches(100, skip=50, **options))  # type: ignore[arg-type]


def test_each_epoch_and_seed_shuffles_anew_and_loses_no_sample(digits: Data) -> None:
    orders = [all_of(digits.train, seed=seed, epoch=epoch)[1] for seed in (0, 1) for epoch in (0, 1)]
    for index, order in enumerate(orders):
        assert torch.equal(order.bincount(), digits.train.labels.bincount())
        assert all(not torch.equal(order, other) for other in orders[:index])
    assert torch.equal(all_of(digits.train)[1], digits.train.labels)


def test_augmentation_depends_on_seed_epoch_and_index_but_not_on_the_batch(digits: Data) -> None:
    small, large = (all_of(digits.train, batch_size=n, seed=1, epoch=4, augment=True)[0] for n in (7, 500))
    assert torch.equal(small, large)
    assert not torch.equal(small, all_of(digits.train, seed=1, epoch=4)[0])
    part = digits.train.subset(50, seed=2)
    where = {int(index): row for row, index in enumerate(shuffled_indices(digits.train, 1, 4))}
    found, _ = all_of(part, seed=1, epoch=4, augment=True)
    for index, image in zip(shuffled_indices(part, 1, 4), found, strict=True):
        assert torch.equal(image, small[where[int(index)]])


def shuffled_indices(split: Split, seed: int, epoch: int) -> Tensor:
    return split.indices[torch.from_numpy(permutation(len(split), seed, 1, epoch))]


def test_batches_are_normalised_float_images_with_whole_labels(digits: Data) -> None:
    images, labels = all_of(digits.train)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (1293, *digits.in_shape)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert (images.std((0, 2, 3)) - 1).abs().max() < 1e-3


@settings(max_examples=10)
@given(n=st.integers(1, 2000), seed=st.integers(0, 3))
def test_a_subset_is_fixed_by_its_seed_and_mixes_the_classes(n: int, seed: int) -> None:
    train = load("synthetic", image_size=4, samples=100).train
    part = train.subset(n, seed)
    assert len(part) == min(n, len(train))
    assert torch.equal(part.indices, train.subset(n, seed).indices)
    assert set(part.indices.tolist()) <= set(train.indices.tolist())
    assert int(part.labels.bincount(minlength=10).max() - part.labels.bincount(minlength=10).min()) <= 1


def test_example_inputs_are_two_images_and_always_the_same(digits: Data) -> None:
    (first,), (second,) = digits.example_inputs, load("digits").example_inputs
    assert first.shape == (2, *digits.in_shape)
    assert torch.equal(first, second)
