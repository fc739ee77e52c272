from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mcomp.errors import StageError
from mcomp.quantization import calibrate, quantize, reestimate_batch_norms
from tests.unit.quantization.quantization_nets import batch, chain, warm


def test_statistics_are_those_of_all_the_data() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    model = nn.Sequential(conv, norm, nn.ReLU()).eval()
    batches = [torch.randn(count, 3, 9, 9) * count for count in (5, 2, 7)]
    assert reestimate_batch_norms(model, batches) == ["1"]
    with torch.no_grad():
        values = conv(torch.cat(batches)).movedim(1, 0).flatten(1).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-6)
    assert torch.allclose(norm.running_var.double(), values.var(1, unbiased=True), rtol=1e-5)


def test_nothing_else_changes() -> None:
    model = warm(chain())
    before = copy.deepcopy(model.state_dict())
    names = reestimate_batch_norms(model, [batch(8)])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= {f"{name}.running_{what}" for name in names for what in ("mean", "var")}
    assert moved
    assert not any(module.training for module in model.modules())


def test_a_quantised_model_is_measured_as_it_computes() -> None:
    quantised = quantize(warm(chain()), (batch(),), w_bits=2, a_bits=4)
    calibrate(quantised, [batch(8)])
    reestimate_batch_norms(quantised, [batch(8)])
    name = next(name for name, module in quantised.named_modules() if isinstance(module, nn.BatchNorm2d))
    norm = quantised.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        quantised(batch(8))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_no_data_is_refused() -> None:
    with pytest.raises(StageError, match="no batch"):
        reestimate_batch_norms(warm(chain()), [])
