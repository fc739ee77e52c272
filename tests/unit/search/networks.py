"""Small networks whose channels are coupled in every usual way, and what is counted on them by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcomp.search.network import WEIGHTED
from mcomp.search.network_space import NetworkSpace


class Plain(nn.Module):
    """Three convolutions and a classifier; 20 and 23 channels are no multiple of 8."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
        self.b, self.norm_b = nn.Conv2d(20, 23, 3, stride=2, padding=1), nn.BatchNorm2d(23)
        self.c, self.norm_c = nn.Conv2d(23, 16, 1), nn.BatchNorm2d(16)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.a(x)).relu()
        x = self.norm_b(self.b(x)).relu()
        return self.head(self.drop(self.norm_c(self.c(x)).relu().mean((2, 3))))


class Residual(nn.Module):
    """Two blocks on one stream, whose convolutions are coupled by the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.one, self.norm_one = nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.two, self.norm_two = nn.Conv2d(10, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.three, self.norm_three = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.norm_two(self.two(self.norm_one(self.one(x)).relu()))
        x = x + self.norm_three(self.three(x.relu()))
        return self.head(x.relu().mean((2, 3)))


class Separable(nn.Module):
    """Depthwise convolutions, the second with two filters per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.deep, self.norm_deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.point, self.norm_point = nn.Conv2d(12, 20, 1), nn.BatchNorm2d(20)
        self.twice, self.norm_twice = nn.Conv2d(20, 40, 3, groups=20), nn.BatchNorm2d(40)
        self.last, self.norm_last = nn.Conv2d(40, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.norm_point(self.point(self.norm_deep(self.deep(x)).relu())).relu()
        x = self.norm_last(self.last(self.norm_twice(self.twice(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    """A convolution in two groups, and branches that are concatenated and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.left, self.norm_left = nn.Conv2d(16, 12, 3, groups=2), nn.BatchNorm2d(12)
        self.right, self.norm_right = nn.ConvTranspose2d(16, 10, 1), nn.BatchNorm2d(10)
        self.hidden, self.head = nn.Linear(22 * 9, 14), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        left, right = self.norm_left(self.left(x)).relu(), self.norm_right(self.right(x))[..., 1:-1, 1:-1].relu()
        return self.head(self.hidden(torch.cat([left, right], 1).flatten(1)).relu())


def seeded(kind: type[nn.Module], *arguments: float) -> nn.Module:
    """The same weights and statistics each time, no two channels alike."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = kind(*arguments)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


def images(count: int = 2, seed: int = 3) -> Tensor:
    """Shape ``(count, 3, 12, 12)``."""
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def bytes_of(made: nn.Module, known: NetworkSpace, genome: tuple[float, ...]) -> float:
    """Counted tensor by tensor on a network that was cut."""
    named = known.space.named(genome)
    weights = {f"{name}.weight": kinds["w_bits"] for name, kinds in named.items() if "w_bits" in kinds}
    return sum(one.numel() * weights.get(name, 32) for name, one in made.named_parameters()) / 8


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """By name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
