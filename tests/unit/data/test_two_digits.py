"""Pairs of digits: the same from the same seed, no scan in two splits, every class as often as any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mcomp
from mcomp.data.digits import scans
from mcomp.data.fingerprint import fingerprint
from mcomp.data.spec import TwoDigitsOptions
from mcomp.data.two_digits import CLASSES, draw
from mcomp.errors import UsageError

SMALL = {"name": "two_digits", "samples": 1000, "channels": 1}


def options(**more: object) -> TwoDigitsOptions:
    return TwoDigitsOptions.model_validate({**SMALL, **more})


def test_the_same_seed_draws_the_same_images_and_another_does_not() -> None:
    first, again, other = (mcomp.data.load(**SMALL, draw_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.samples.fetch(torch.arange(9)), again.train.samples.fetch(torch.arange(9)))
    assert not torch.equal(first.train.samples.fetch(torch.arange(9)), other.train.samples.fetch(torch.arange(9)))
    assert fingerprint(options()) == fingerprint(options(draw_seed=4))  # content is the scans; options are beside it
    assert fingerprint(options()) != fingerprint(mcomp.data.options_for("digits")(name="digits"))


def test_an_image_depends_on_its_index_and_on_no_other_image() -> None:
    held = np.arange(400)
    whole, labels = draw(np.arange(1500), held, 0, options())
    some = np.array([1499, 7, 1030])
    alone, their_labels = draw(some, held, 0, options())
    assert torch.equal(alone, whole[torch.from_numpy(some)])
    assert torch.equal(their_labels, labels[torch.from_numpy(some)])
    assert not torch.equal(draw(some, held, 1, options())[0], alone)  # a split has draws of its own


def test_labels_are_balanced_in_every_split() -> None:
    data = mcomp.data.load(**SMALL, test_fraction=0.4, val_fraction=0.25)
    assert data.num_classes == CLASSES
    assert [len(split) for split in (data.train, data.val, data.test)] == [450, 150, 400]
    for split in (data.train, data.val, data.test):
        counts = torch.bincount(split.labels, minlength=CLASSES)
        assert int(counts.max() - counts.min()) <= 1


def test_no_scan_is_shown_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan is marked by its ink: what a split shows is then known from its pixels."""
    _, digits = scans()
    count = len(digits)
    for own in range(3):  # only the scans of one split have any ink
        bounds = (0, 1294, 1438, 1797)
        ink = torch.zeros(count, 1, 8, 8)
        ink[bounds[own] : bounds[own + 1]] = 1.0
        monkeypatch.setattr("mcomp.data.two_digits.scans", lambda ink=ink: (ink, digits))
        data = mcomp.data.load(**SMALL, test_fraction=0.2, val_fraction=0.1)
        for number, split in enumerate((data.train, data.val, data.test)):
            images = next(split.batches(100))[0] * data.preprocessing["std"][0] + data.preprocessing["mean"][0]
            assert (float(images.amax((1, 2, 3)).min()) > 0.45) == (number == own)  # noise alone stays below 0.15


def test_a_pair_is_read_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    _, digits = scans()
    ink = (digits == 7).float()[:, None, None, None].expand(-1, 1, 8, 8)  # nothing but sevens is seen
    monkeypatch.setattr("mcomp.data.two_digits.scans", lambda: (ink, digits))
    images, labels = draw(np.arange(100), np.arange(1797), 0, options(fragments=0))
    halves = images.float().div(255).chunk(2, 3)
    left, right = (half.mean((1, 2, 3)) for half in halves)
    assert bool((left[labels // 10 == 7] > left[labels // 10 != 7].max()).all())
    assert bool((right[labels % 10 == 7] > right[labels % 10 != 7].max()).all())


@pytest.mark.parametrize("size", [16, 24, 48])
def test_images_have_the_size_that_is_asked_for(size: int) -> None:
    data = mcomp.data.load(**SMALL, image_size=size)
    assert next(data.test.batches(5))[0].shape == (5, 1, size, size)
    assert data.preprocessing["size"] == [size, size]


def test_more_images_do_not_change_the_earlier_ones_of_test() -> None:
    few, many = (mcomp.data.load(**{**SMALL, "samples": count}) for count in (1000, 2000))
    pixels = [each.test.samples.fetch(each.test.indices[:50]) for each in (few, many)]
    assert torch.equal(*pixels)


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"samples": 10}, {"image_size": 8}, {"fragments": -1}):
        with pytest.raises(UsageError) as caught:
            mcomp.data.load(**{**SMALL, **wrong})
        assert caught.value.code == "MC229"
