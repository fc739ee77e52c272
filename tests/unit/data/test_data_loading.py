from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mcomp.data import known_names, load, options_for
from mcomp.data.fingerprint import DIGITS_TABLE
from mcomp.data.resize import resized, with_channels
from mcomp.data.spec import unknown_name
from mcomp.errors import McompError, PreflightError, UsageError


def test_the_digits_are_the_sources_1797_scans() -> None:
    table = np.loadtxt(DIGITS_TABLE, delimiter=",", dtype=int)
    assert table.shape == (1797, 65)
    # figures of the test portion, as its documentation states them: class distribution and range
    assert np.bincount(table[:, -1]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (table[:, :-1].min(), table[:, :-1].max()) == (0, 16)
    assert len(gzip.compress(DIGITS_TABLE.read_bytes())) < 62_000
    assert "CC BY 4.0" in (DIGITS_TABLE.parent / "LICENSE.digits").read_text()


def test_the_statistics_of_a_set_undo_its_normalisation() -> None:
    data = load("digits", image_size=16)
    assert data.in_shape == (3, 16, 16)
    assert data.preprocessing["size"] == [16, 16]
    mean, std = (torch.tensor(data.preprocessing[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    images, _ = next(data.train.batches(2000))
    pixels = images * std + mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)


def test_given_statistics_are_used_one_for_all_channels_or_one_each() -> None:
    data = load("synthetic", samples=50, mean=[0.5], std=[0.1, 0.2, 0.4])
    assert (data.preprocessing["mean"], data.preprocessing["std"]) == ([0.5] * 3, [0.1, 0.2, 0.4])
    plain = load("synthetic", samples=50, mean=[0.0], std=[1.0])
    x, y = data.example_inputs[0], plain.example_inputs[0]
    assert torch.allclose(x, (y - 0.5) / torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1), atol=1e-5)


def test_one_channel_stays_one_and_grey_is_repeated_to_three() -> None:
    grey, colour = load("digits", channels=1), load("digits")
    assert grey.in_shape == (1, 8, 8)
    assert torch.equal(grey.example_inputs[0].expand(-1, 3, -1, -1), colour.example_inputs[0])


def test_a_limit_keeps_so_many_of_each_split_in_proportion() -> None:
    data = load("digits", limit=200)
    assert [len(split) for split in (data.train, data.val, data.test)] == [200, 144, 200]
    counts = data.train.labels.bincount()
    assert int(counts.max() - counts.min()) <= 2
    with pytest.raises(PreflightError, match="more than data set `digits` has"):
        load("digits", limit=1294)


def test_synthetic_images_are_a_function_of_their_options_and_can_be_learned_by_a_mean() -> None:
    one, two = load("synthetic", pattern_seed=3), load("synthetic", pattern_seed=3)
    images, labels = next(one.train.batches(10_000))
    assert torch.equal(images, next(two.train.batches(10_000))[0])
    assert not torch.equal(images, next(load("synthetic").train.batches(10_000))[0])
    means = torch.stack([images[labels == label].mean(0) for label in range(10)])
    tests, truth = next(one.test.batches(10_000))
    nearest = torch.cdist(tests.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == truth).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "options", "error", "part"),
    [
        ("digts", {}, UsageError, "did you mean `digits`?"),
        ("digits", {"imagesize": 8}, UsageError, "unknown option"),
        ("digits", {"image_size": 1}, UsageError, "`image_size`"),
        ("digits", {"val_fraction": 0.0}, UsageError, "`val_fraction`"),
        ("digits", {"mean": [0.1, 0.2]}, UsageError, "2 numbers for 3 channels"),
        ("digits", {"std": [0.0]}, UsageError, "above 0"),
        ("digits", {"val_fraction": 0.9999}, PreflightError, "too few"),
        ("mine.py:make", {}, UsageError, "`--trust`"),
        ("image_folder", {}, UsageError, "`root`"),
        ("cifar10", {"root": "/nowhere"}, PreflightError, "data.download: true"),
        ("fashion_mnist", {"root": "/nowhere"}, PreflightError, "data.download: true"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    name: str, options: dict[str, Any], error: type[McompError], part: str
) -> None:
    with pytest.raises(error) as caught:
        load(name, **options)
    assert part in str(caught.value)


def test_naming_no_data_set_is_refused() -> None:
    with pytest.raises(UsageError, match="no data set named"):
        load(image_size=8)


@pytest.mark.parametrize("name", known_names())
def test_every_known_set_has_closed_options(name: str) -> None:
    root = {"root": "x"} if "root" in options_for(name).model_fields else {}
    assert options_for(name)(name=name, **root).batch_size == 64
    assert unknown_name(name) is None
    with pytest.raises(ValidationError):
        options_for(name)(name=name, colour="red", **root)


def test_resizing_keeps_the_shape_of_things_and_the_kind_of_numbers() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 3, 6, 12).contiguous()
    square = resized(ramp, 6)
    assert square.shape == (1, 3, 6, 6)
    assert torch.allclose(square[0, 0, 0], torch.arange(3.0, 9.0))  # the middle of the longer side
    assert resized(ramp.to(torch.uint8), 3).dtype == torch.uint8
    assert resized(square, 6) is square


def test_colour_turns_grey_by_its_brightness() -> None:
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert with_channels(white, 1).unique().tolist() == [255]
    assert with_channels(white, 1).shape == (1, 1, 2, 2)
    assert with_channels(white, 3) is white


def test_a_data_set_and_its_splits_are_one_line_at_a_prompt() -> None:
    data = load("synthetic", samples=100)
    assert repr(data).startswith("<Data synthetic: ")
    assert repr(data.train) == f"<Split of {len(data.train)} images>"
    assert len(repr(data)) < 120


def test_a_misspelled_option_is_named_before_what_it_leaves_missing() -> None:
    with pytest.raises(UsageError, match=r"`rot`: unknown option") as caught:
        load(name="image_folder", rot="x")
    assert caught.value.hint == "did you mean `root`?"
