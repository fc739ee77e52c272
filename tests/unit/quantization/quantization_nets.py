"""Small networks and tensor strategies that the suites of this room share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn


def warm(model: nn.Module, shape: tuple[int, ...] = (3, 12, 12), seed: int = 1) -> nn.Module:
    """Give every batch norm statistics and parameters of its own, negative gammas included."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        for _ in range(20):
            model(torch.randn(8, *shape, generator=generator))
    return model.eval()


def batch(count: int = 4, shape: tuple[int, ...] = (3, 12, 12), seed: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """A residual block whose one ReLU serves twice, a functional add, a pool and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(width * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem_norm(self.stem(x)))
        y = self.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y)) + x
        return self.head(torch.flatten(self.pool(self.relu(y)), 1))


def chain(width: int = 8) -> nn.Sequential:
    """Conv, BN, ReLU three times, a global pool and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, width), (width, width), (width, width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


@st.composite
def tensors(draw: st.DrawFn, max_filters: int = 5) -> Tensor:
    """Weights of one to four dimensions: ordinary, constant, zero, with a dead filter, tiny, a single element."""
    shape = [draw(st.integers(1, max_filters)), *draw(st.lists(st.integers(1, 4), max_size=3))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    made = torch.randn(shape, generator=generator)
    kind = draw(st.sampled_from(["ordinary", "constant", "zero", "dead filter", "tiny", "huge", "one sign"]))
    if kind == "constant":
        return torch.full(shape, draw(st.sampled_from([1.0, -0.3, 1e-12])))
    if kind == "zero":
        return torch.zeros(shape)
    if kind == "dead filter":
        made[0] = 0
    return made * {"tiny": 1e-20, "huge": 1e6}.get(kind, 1.0) if kind != "one sign" else made.abs()


bits = st.integers(2, 16)
