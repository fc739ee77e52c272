"""Networks that are called with several tensors: what a batch of them looks like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.quantization import (
    adaptive_rounding,
    calibrate,
    correct_bias,
    equalize,
    layer_report,
    quantize,
    reestimate_batch_norms,
    sensitivity,
)


class Both(nn.Module):
    """Answers to an image and a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.numbers, self.head = nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, image: Tensor, numbers: Tensor, scale: float = 1.0) -> Tensor:
        parts = [self.image(image).mean((2, 3)), torch.relu(self.numbers(numbers))]
        made: Tensor = self.head(torch.cat(parts, 1) * scale)
        return made


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 3, 6, 6), torch.randn(4, 5)


def converted(inputs: tuple[Tensor, Tensor]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    model = Both().eval()
    return quantize(model, inputs, scheme="iao"), model


def test_ranges_are_the_same_however_the_batch_is_written(inputs: tuple[Tensor, Tensor]) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    states = []
    for batch in (inputs, [*inputs], (*inputs, labels), (inputs, labels), (inputs,)):
        made, _ = converted(inputs)
        assert len(calibrate(made, [batch])) == 3
        states.append(made.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_all_that_takes_batches_takes_them(inputs: tuple[Tensor, Tensor]) -> None:
    batches: list[Any] = [(*inputs, torch.tensor([0, 1, 2, 0]))]
    made, model = converted(inputs)
    calibrate(made, batches)
    found = sensitivity(made, inputs, batches)
    assert found.float_top1 is not None
    assert sensitivity(model, inputs, batches, accuracy=False, scheme="iao").float_top1 is None
    assert layer_report(made, batches).samples == 4
    assert {row.layer for row in adaptive_rounding(made, model, batches, iterations=2)} >= {"image.0", "numbers"}
    assert correct_bias(made, model, batches).shifts
    assert reestimate_batch_norms(made, batches) == ["image.1"]
    assert equalize(model, inputs, batches).model(*inputs).shape == (4, 3)


def test_one_tensor_for_a_network_of_two_is_refused(inputs: tuple[Tensor, Tensor]) -> None:
    made, _ = converted(inputs)
    with pytest.raises(UsageError, match="does not take batch 1"):
        calibrate(made, [inputs[0]])
    with pytest.raises(UsageError, match="a batch is"):
        calibrate(made, [(inputs[0], "label")])
