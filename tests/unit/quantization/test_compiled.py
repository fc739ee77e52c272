"""Training under ``torch.compile``: one graph for all steps, and the gradients of eager mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.quantization import quantize
from tests.unit.quantization.quantization_nets import batch

SCHEMES: dict[str, dict[str, Any]] = {
    "iao": {"scheme": "iao"},
    "iao, asymmetric": {"scheme": "iao", "symmetric_activations": False, "symmetric_weights": False},
    "iao, batch norms corrected": {"scheme": "iao", "fold_bn": "correction"},
    "dorefa": {"scheme": "dorefa"},
    "dorefa of the paper": {"scheme": "dorefa", "variant": "paper"},
    "lsq": {"scheme": "lsq"},
    "lsq of 16 bits": {"scheme": "lsq", "w_bits": 16, "a_bits": 16},
    "lsq_plus": {"scheme": "lsq_plus"},
    "pact": {"scheme": "pact"},
    "binary": {"scheme": "wbwtab", "w_bits": 1},
    "ternary": {"scheme": "wbwtab", "w_bits": 2},
}


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def trained(model: nn.Module, called: nn.Module, steps: int) -> list[Tensor]:
    """Every gradient of some steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        output = called(batch(4, seed=step))
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(step))).sum().backward()
        found += [each.grad.clone() for each in model.parameters() if each.grad is not None]
        optimizer.step()
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_training_is_one_graph_with_the_gradients_of_eager_mode(name: str) -> None:
    made = quantize(net().eval(), (batch(2),), calibration=[batch(8)], **SCHEMES[name]).train()
    eager = copy.deepcopy(made)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    found, expected = trained(made, compiled, 3), trained(eager, eager, 3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert len(found) == len(expected) == 3 * len(list(eager.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
@pytest.mark.parametrize("options", [{"scheme": "iao", "fold_bn": "batch"}, {"scheme": "ristretto"}])
def test_what_takes_several_graphs_is_compiled_once_and_trains_alike(options: dict[str, Any]) -> None:
    made = quantize(net().eval(), (batch(2),), calibration=[batch(8)], **options).train()
    eager = copy.deepcopy(made)
    compiled = torch.compile(made, backend="aot_eager")
    counts = torch._dynamo.utils.counters["stats"]
    found = trained(made, compiled, 3)
    graphs = counts["unique_graphs"]
    found += trained(made, compiled, 3)
    assert counts["unique_graphs"] == graphs
    for mine, theirs in zip(found, [*trained(eager, eager, 3), *trained(eager, eager, 3)], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-7)


def test_a_compiled_network_answers_as_eager_mode_does() -> None:
    made = quantize(net().eval(), (batch(2),), scheme="lsq", calibration=[batch(8)]).eval()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch(3)), made(batch(3)))
