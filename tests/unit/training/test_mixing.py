from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from torch import Tensor

from mcomp.training.distillation import DistillationLoss
from mcomp.training.mixing import Mixing
from tests.unit.training.toys import settings, train

CLASSES = 5


def coloured(n: int, height: int = 12, width: int = 9) -> tuple[Tensor, Tensor]:
    """Image number i is i everywhere, and its class is i modulo the classes."""
    numbers = torch.arange(n)
    return numbers.float().view(-1, 1, 1, 1).expand(n, 2, height, width).contiguous(), numbers % CLASSES


@how(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 99), st.floats(0.05, 5), st.integers(1, 8))
def test_mixup_gives_the_labels_the_share_that_the_pixels_have(seed: int, step: int, alpha: float, n: int) -> None:
    images, labels = coloured(n)
    mixed, target = Mixing(settings(mixup=alpha), CLASSES, seed)(images, labels, step)
    assert torch.allclose(target.sum(1), torch.ones(n))
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))  # every pixel in the same way
    # one batch, one share, each image the partner of one: the sums stay what they were
    assert mixed[:, 0, 0, 0].sum() == pytest.approx(float(images[:, 0, 0, 0].sum()), abs=1e-3)
    assert torch.allclose(target.sum(0), torch.nn.functional.one_hot(labels, CLASSES).float().sum(0), atol=1e-4)
    own = target[torch.arange(n), labels]
    for row in range(n):
        others = [other for other in range(n) if abs(float(own[row]) * row + (1 - float(own[row])) * other
                                                     - float(mixed[row, 0, 0, 0])) < 1e-3]  # fmt: skip
        assert others or own[row] == pytest.approx(1.0)


@how(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 99), st.floats(0.05, 5), st.integers(2, 5))
def test_cutmix_gives_the_labels_the_share_of_the_area(seed: int, step: int, alpha: float, n: int) -> None:
    images, labels = coloured(n)
    mixed, target = Mixing(settings(cutmix=alpha), CLASSES, seed)(images, labels, step)
    for row in range(n):
        foreign = mixed[row, 0] != images[row, 0]
        kept = 1 - foreign.float().mean()
        assert float(target[row, labels[row]]) == pytest.approx(float(kept), abs=1e-5) or not foreign.any()
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None, :])  # a box
        assert mixed[row, 0][foreign].unique().numel() <= 1  # of one partner


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    images, labels = coloured(6)
    chosen = settings(mixup=1.0, cutmix=1.0)
    mixing = Mixing(chosen, CLASSES, 3)
    first = [mixing(images, labels, step)[0] for step in range(12)]
    assert all(torch.equal(Mixing(chosen, CLASSES, 3)(images, labels, step)[0], first[step]) for step in (11, 4, 0))
    assert not torch.equal(first[0], Mixing(chosen, CLASSES, 4)(images, labels, 0)[0])
    cut = [bool((batch == batch.round()).all()) for batch in first]  # a box holds whole numbers, a mixture does not
    assert True in cut
    assert False in cut


def test_a_loss_of_ones_own_gets_probabilities_and_the_images_that_the_model_got() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(outputs: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        seen.append((labels, inputs))
        return torch.nn.functional.cross_entropy(outputs, labels)

    train(settings={"mixup": 0.4, "epochs": 1}, loss=loss)
    assert all(labels.shape == (len(inputs), 3) for labels, inputs in seen)


def test_a_teacher_s_loss_of_mixed_labels_is_the_mixture_of_its_losses() -> None:
    outputs, labels, others = torch.randn(4, CLASSES), torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 0, 3])
    loss = DistillationLoss(torch.nn.Identity(), 0.4, 2.0, label_smoothing=0.1)
    hot = [torch.nn.functional.one_hot(each, CLASSES).float() for each in (labels, others)]
    mixed = loss(outputs, 0.3 * hot[0] + 0.7 * hot[1], 2 * outputs)
    torch.testing.assert_close(
        mixed, 0.3 * loss(outputs, labels, 2 * outputs) + 0.7 * loss(outputs, others, 2 * outputs)
    )


def test_a_mixed_run_still_learns() -> None:
    assert train(settings={"mixup": 0.2, "epochs": 12, "augment": False}).history[-1]["val_top1"] > 80
