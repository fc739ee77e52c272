from __future__ import annotations

import torch
from torch import Tensor, nn

import mcomp


class ViewsBehindAConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        scores: Tensor = self.head(y.view(y.size(0), -1))
        return scores


def test_a_network_that_cannot_take_channels_last_trains_in_bfloat16_all_the_same() -> None:
    data = mcomp.data.load(name="synthetic", num_classes=3, samples=60, image_size=8)
    result = mcomp.stages.train(ViewsBehindAConvolution(), data=data, epochs=1, precision="bf16", device="cpu")
    assert 0 <= result.metrics["top1"] <= 100
