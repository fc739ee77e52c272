from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.data import load
from mcomp.errors import StageError
from mcomp.metrics import evaluate
from mcomp.models import build


def test_top1_and_loss_are_those_of_all_logits_at_once_whatever_the_batch_size() -> None:
    data = load("digits")
    model = build("lenet", in_shape=data.in_shape)
    images, labels = next(data.test.batches(1000))
    logits = model(images)
    for batch_size in (7, 360):
        found = evaluate(model, data.test, batch_size=batch_size)
        assert found.top1 == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
        assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert torch.equal(found.predictions, logits.argmax(1))
        assert torch.equal(found.labels, labels)


def test_each_submodule_gets_its_own_mode_back_and_no_statistic_moves() -> None:
    data = load("synthetic", samples=40)
    model = build("lenet", in_shape=data.in_shape).train()
    model.get_submodule("bn1").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, data.test)
    assert model.training
    assert not model.get_submodule("bn1").training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Features(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_an_output_that_is_no_row_of_logits_is_refused() -> None:
    data = load("synthetic", samples=40)
    with pytest.raises(StageError, match=r"returned \(8, 3, 16, 16\)"):
        evaluate(Features(), data.test)
    with pytest.raises(StageError, match="only 2 outputs"):
        evaluate(build("lenet", num_classes=2), data.test)
