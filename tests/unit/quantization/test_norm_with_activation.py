"""A batch norm that applies its own activation is a batch norm all the same: it folds, and trains as it did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import fold_batch_norms, quantize
from mcomp.quantization.norm_with_activation import NormThenActivation, is_joint, split_norms


class BatchNormAct2d(nn.BatchNorm2d):
    """One as timm writes it."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        normed = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        found: Tensor = self.act(self.drop(normed))
        return found


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)
    body = nn.Sequential(first, BatchNormAct2d(8, nn.ReLU()), second, BatchNormAct2d(8, nn.Hardswish(inplace=True)))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(8 * 16, 4))


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def trained() -> nn.Module:
    model = network().train()
    for _ in range(3):
        model(IMAGES)
    return model.eval()


def test_split_in_two_it_computes_and_trains_the_same() -> None:
    model, other = network().train(), network().train()
    split_norms(other)
    assert sum(isinstance(module, NormThenActivation) for module in other.modules()) == 2
    assert not any(is_joint(module) for module in other.modules())
    for _ in range(2):
        torch.testing.assert_close(model(IMAGES), other(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(model.eval()(IMAGES), other.eval()(IMAGES), rtol=0, atol=0)


def test_a_float_network_folds_all_of_them_and_stays_as_it_was() -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model, (IMAGES,))
    assert folded.count == 2
    assert not folded.left
    assert folded.error < 1e-5
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("options", [{}, {"fold_bn": "batch"}, {"fold_bn": "correction"}])
def test_a_quantised_network_trains_and_folds_all_of_them(options: dict[str, Any]) -> None:
    made = quantize(trained(), (IMAGES,), scheme="iao", calibration=[IMAGES], **options)
    made.train()(IMAGES).sum().backward()
    folded = fold_batch_norms(made.eval(), (IMAGES,))
    assert folded.count == 2
    with torch.no_grad():
        torch.testing.assert_close(folded.model(IMAGES), made(IMAGES), rtol=1e-2, atol=1e-2)
