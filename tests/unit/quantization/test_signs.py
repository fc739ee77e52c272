"""A tensor is unsigned where the graph proves it, by either route, and never where it may be below 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import describe, quantize
from mcomp.quantization.config import Route
from mcomp.quantization.routes import graph_by
from mcomp.quantization.signs import nonnegative_nodes

Join = Callable[[Tensor, Tensor, Tensor], Tensor]


class Joined(nn.Module):
    """Two tensors behind ReLUs and a signed one, joined, and read by a convolution of any width."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.left, self.right, self.signed = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.join = join
        self.head = nn.LazyConv2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.join(F.relu(self.left(x)), F.relu(self.right(x)), self.signed(x)))
        return output


UNSIGNED: dict[str, Join] = {
    "cat": lambda a, b, s: torch.cat((a, b), 1),
    "cat by keyword": lambda a, b, s: torch.cat(tensors=[a, b], dim=1),
    "hstack": lambda a, b, s: torch.hstack((a, b)),
    "max pool": lambda a, b, s: F.max_pool2d(a, 3, 2, 1, ceil_mode=True),
    "max pool with indices": lambda a, b, s: F.max_pool2d(a, 2, return_indices=True)[0],
    "adaptive max pool": lambda a, b, s: F.adaptive_max_pool2d(a, 2),
    "nearest": lambda a, b, s: F.interpolate(a, scale_factor=2),
    "bilinear to a size": lambda a, b, s: F.interpolate(F.avg_pool2d(a, 2), size=s.shape[-2:], mode="bilinear"),
    "nearest to sizes": lambda a, b, s: F.interpolate(a, size=(b.shape[-2], s.size(3))),
    "bilinear without aliases": lambda a, b, s: F.interpolate(a, scale_factor=0.5, mode="bilinear", antialias=True),
    "a pyramid": lambda a, b, s: torch.cat(
        [a, F.max_pool2d(b, 3, 1, 1), F.interpolate(F.avg_pool2d(a, 2), size=a.shape[2:], mode="bilinear")], 1
    ),
    "times a size": lambda a, b, s: a * a.shape[1],
    "a share": lambda a, b, s: a / 2,
    "the larger": lambda a, b, s: torch.maximum(a, s),
    "the largest": lambda a, b, s: a.amax((2, 3), keepdim=True),
    "an even power": lambda a, b, s: s**2,
    "parts": lambda a, b, s: torch.cat(torch.cat((a, b), 1).chunk(2, 1)[::-1], 1),
}
SIGNED: dict[str, Join] = {
    "cat of one signed": lambda a, b, s: torch.cat((a, s), 1),
    "bicubic": lambda a, b, s: F.interpolate(a, scale_factor=2.0, mode="bicubic"),
    "bilinear of a signed": lambda a, b, s: F.interpolate(s, size=a.shape[-2:], mode="bilinear"),
    "max pool of a signed": lambda a, b, s: F.max_pool2d(s, 2),
    "a difference": lambda a, b, s: a - b,
    "padding below 0": lambda a, b, s: F.pad(a, (1, 1, 1, 1), value=-1.0),
    "a negative share": lambda a, b, s: a / -2,
    "the smaller": lambda a, b, s: torch.minimum(a, s),
    "an odd power": lambda a, b, s: s**3,
    "times a signed": lambda a, b, s: a * s,
}


def example() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def network(join: Join) -> Joined:
    torch.manual_seed(3)
    made = Joined(join).eval()
    made(example())  # the lazy layer becomes one of its width
    return made


def joined_by(route: Route, join: Join) -> tuple[bool, Any]:
    """What the graph proves of the tensor that the head reads, and that tensor."""
    model = network(join)
    traced = graph_by(route, model, (example(),))
    head = next(node for node in traced.graph.nodes if node.op == "call_module" and node.target == "head")
    proven = nonnegative_nodes(traced.graph, dict(traced.named_modules()))[head.args[0]]
    seen: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(example())
    return proven, seen[0].detach()


@pytest.mark.parametrize("route", ["symbolic", "export"])
@pytest.mark.parametrize("name", UNSIGNED)
def test_what_is_made_of_tensors_without_a_sign_has_none(name: str, route: Route) -> None:
    proven, tensor = joined_by(route, UNSIGNED[name])
    assert proven
    assert float(tensor.min()) >= 0


@pytest.mark.parametrize("route", ["symbolic", "export"])
@pytest.mark.parametrize("name", SIGNED)
def test_what_may_be_below_0_keeps_its_sign(name: str, route: Route) -> None:
    proven, tensor = joined_by(route, SIGNED[name])
    assert not proven
    assert float(tensor.min()) < 0


def test_an_unsigned_tensor_has_twice_the_levels() -> None:
    for join, signed, top in (
        (UNSIGNED["a pyramid"], False, "0..255"),
        (SIGNED["cat of one signed"], True, "-127..127"),
    ):
        model = quantize(network(join), (example(),), scheme="iao", calibration=[example()])
        row = next(row for row in describe(model) if row["kind"] == "activation" and "head" in row["readers"])
        assert row["signed"] is signed
        assert top in row["why"]
