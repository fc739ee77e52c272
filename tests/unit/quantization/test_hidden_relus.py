from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import calibrate, quantize, restore_float
from mcomp.quantization.quantizers import BinaryActivation
from tests.unit.quantization.conversion_nets import Function


def network(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "next": nn.Conv2d(8, 8, 3), "wide": nn.Conv2d(16, 8, 3)}
    return Function(forward, **layers, norm=nn.BatchNorm2d(8), head=nn.Linear(8, 5)).eval()


def ended(net: Any, x: Tensor) -> Tensor:
    return net.head(x.mean((2, 3)))


NETS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "average": lambda net, x: ended(net, net.next(F.avg_pool2d(F.relu(net.norm(net.stem(x))), 2))),
    "both pools": lambda net, x: ended(net, net.next(F.avg_pool2d(F.max_pool2d(F.relu(net.norm(net.stem(x))), 2), 2))),
    "concatenation": lambda net, x: ended(
        net, net.wide(torch.cat([F.relu(net.norm(net.stem(x))), F.relu(-net.stem(x))], 1))
    ),
}


def signs(model: nn.Module, x: Tensor) -> list[float]:
    """The share of ones behind every sign."""
    shares: list[float] = []
    for module in model.modules():
        if isinstance(module, BinaryActivation):
            module.register_forward_hook(lambda _m, _a, y: shares.append(float((y > 0).float().mean())))
    with torch.no_grad():
        model(x)
    return shares


@pytest.mark.parametrize("name", NETS)
def test_a_sign_behind_an_average_of_relus_still_says_something(name: str) -> None:
    model, x = network(NETS[name]), torch.randn(4, 3, 16, 16)
    quantised = quantize(model, (x,), scheme="wbwtab")
    calibrate(quantised, [x])
    shares = signs(quantised, x)
    assert shares
    assert all(0 < share < 1 for share in shares)
    assert type(restore_float(quantised)) is type(model)


def test_a_relu_that_something_else_reads_stays() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = F.relu(net.norm(net.stem(x)))
        return ended(net, net.next(F.avg_pool2d(y, 2))) + y.mean()

    quantised = quantize(network(forward), (torch.randn(2, 3, 16, 16),), scheme="wbwtab")
    assert any(getattr(node.target, "__name__", "") == "relu" for node in quantised.graph.nodes)  # type: ignore[union-attr]
