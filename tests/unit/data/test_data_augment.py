from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mcomp.data.augment import Augmentation


def images(n: int, h: int, w: int) -> Tensor:
    return torch.arange(1, n * 2 * h * w + 1).view(n, 2, h, w)


@given(n=st.integers(1, 6), h=st.integers(2, 7), w=st.integers(2, 7), shift=st.integers(0, 2), flip=st.booleans())
def test_every_result_is_a_crop_of_the_padded_image_or_of_its_mirror(
    n: int, h: int, w: int, shift: int, flip: bool
) -> None:
    source = images(n, h, w)
    found = Augmentation(shift, flip)(source, torch.arange(n), seed=1, epoch=0)
    for before, after in zip(source, found, strict=True):
        mirrored = [before, before.flip(2)] if flip else [before]
        crops = [
            F.pad(image, [shift] * 4)[:, top : top + h, left : left + w]
            for image in mirrored
            for top in range(2 * shift + 1)
            for left in range(2 * shift + 1)
        ]
        assert any(torch.equal(after, crop) for crop in crops)


@given(order=st.permutations(range(8)), epoch=st.integers(0, 5))
def test_an_image_is_changed_the_same_way_in_any_company(order: list[int], epoch: int) -> None:
    source, augment = images(8, 6, 6), Augmentation(2, True)
    together = augment(source, torch.arange(8), seed=3, epoch=epoch)
    shuffled = augment(source[order], torch.tensor(order), seed=3, epoch=epoch)
    assert torch.equal(shuffled, together[order])


def test_all_shifts_and_both_sides_are_drawn_about_equally_often() -> None:
    dot = torch.zeros(4000, 1, 5, 5)
    dot[:, :, 2, 1] = 1
    found = Augmentation(1, True)(dot, torch.arange(4000), seed=0, epoch=0).mean((0, 1))
    # the dot is in column 1 or, mirrored, in column 3, and moves by one at most: columns overlap in the middle
    assert torch.allclose(found[1:4].sum(1), torch.full((3,), 1 / 3), atol=0.03)
    assert torch.allclose(found.sum(0), torch.tensor([1, 1, 2, 1, 1]) / 6, atol=0.03)


def test_no_shift_and_no_flip_is_no_copy() -> None:
    source = images(2, 3, 3)
    assert Augmentation()(source, torch.arange(2), seed=0, epoch=0) is source


def test_bytes_stay_bytes_and_the_border_is_zero() -> None:
    white = torch.full((200, 3, 4, 4), 255, dtype=torch.uint8)
    found = Augmentation(1)(white, torch.arange(200), seed=0, epoch=0)
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 255}
