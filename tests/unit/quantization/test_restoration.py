from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp import surgery
from mcomp.errors import StageError
from mcomp.quantization import calibrate, fold_batch_norms, is_quantized, quantize, restore_float
from tests.unit.quantization.conversion_nets import CASES, Case
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm


def made(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return case.build().eval(), case.inputs(2)


def flat(output: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def same(left: nn.Module, right: nn.Module, *inputs: Tensor) -> bool:
    states = left.state_dict(), right.state_dict()
    with torch.inference_mode():
        outputs = flat(left(*inputs)), flat(right(*inputs))
    equal = all(torch.equal(mine, theirs) for mine, theirs in zip(*outputs, strict=True))
    return (
        equal and list(states[0]) == list(states[1]) and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    )


@pytest.mark.parametrize("scheme", ["iao", "wbwtab"])
@pytest.mark.parametrize("name", CASES)
def test_restoring_undoes_quantising_to_the_bit(name: str, scheme: str) -> None:
    model, inputs = made(CASES[name])
    restored = restore_float(quantize(model, (inputs,), scheme=scheme, first_layer_float=False, last_layer_float=False))
    assert type(restored) is type(model)
    assert not is_quantized(restored)
    assert same(restored, model, inputs)


@pytest.mark.parametrize("route", ["symbolic", "export", "modules"])
def test_every_route_leads_back(route: Any) -> None:
    model = warm(Residual())
    quantised = quantize(model, (batch(),), scheme="dorefa", route=route)
    assert same(restore_float(quantised), model, batch())
    assert same(restore_float(copy.deepcopy(quantised)), model, batch())


def test_what_training_changed_comes_along() -> None:
    model = warm(chain())
    quantised = quantize(model, (batch(),), scheme="wbwtab", first_layer_float=False)
    calibrate(quantised, [batch()])
    optimiser = torch.optim.SGD(quantised.parameters(), 0.1)
    quantised.train()
    quantised(batch()).square().mean().backward()
    optimiser.step()
    restored = restore_float(quantised.eval())
    trained = quantised.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in restored.state_dict().items())
    assert not same(restored, model, batch())
    expected = copy.deepcopy(model)
    expected.load_state_dict(restored.state_dict())
    assert same(restored, expected, batch())


def test_the_restored_model_shares_nothing_with_the_quantised_one() -> None:
    model = warm(chain())
    quantised = quantize(model, (batch(),))
    restored = restore_float(quantised)
    with torch.no_grad():
        for tensor in [*restored.parameters(), *restored.buffers()]:
            tensor.zero_()
    assert same(restore_float(quantised), model, batch())


def test_tied_weights_stay_tied() -> None:
    model, inputs = made(CASES["tied_weight"])
    restored = restore_float(quantize(model, (inputs,), scheme="lsq"))
    before = [len(list(net.parameters())) for net in (model, restored)]
    assert before[0] == before[1]


def test_the_log_is_that_of_the_float_model() -> None:
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=(3, 12, 12))
    restored = restore_float(quantize(model, (batch(),)))
    assert surgery.provenance(restored).log == surgery.provenance(model).log
    assert surgery.provenance(restored).builder == surgery.provenance(model).builder


def test_a_model_that_was_saved_and_loaded_can_be_restored(tmp_path: Path) -> None:
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=(3, 12, 12))
    quantised = quantize(model, (batch(),), scheme="pact")
    calibrate(quantised, [batch()])
    mcomp.save_model(quantised, tmp_path / "model", (batch(),))
    assert same(restore_float(mcomp.load_model(tmp_path / "model")), model, batch())


def test_the_float_network_beside_a_quantised_one_holds_no_tensors() -> None:
    quantised = quantize(warm(chain()), (batch(),))
    kept = quantised.__dict__["_mcomp_float"]
    assert all(tensor.is_meta for tensor in [*kept.parameters(), *kept.buffers()])
    assert not any("_mcomp_float" in name for name, _ in quantised.named_modules())


def _folded() -> nn.Module:
    quantised = quantize(warm(chain()), (batch(),))
    calibrate(quantised, [batch()])
    return fold_batch_norms(quantised, (batch(),)).model


def _forgetful() -> nn.Module:
    quantised = quantize(warm(chain()), (batch(),))
    del quantised.__dict__["_mcomp_float"]
    return quantised


@pytest.mark.parametrize(
    ("build", "message"),
    [(_folded, "are integers"), (chain, "not quantised"), (_forgetful, "does not know the float network")],
)
def test_what_cannot_be_restored_is_refused(build: Any, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        restore_float(build())
    assert caught.value.code == "MC428"


@pytest.mark.parametrize("bits", [[(32, 32), (8, 8), (4, 4), (2, 2)]])
def test_a_quantised_model_is_quantised_anew_from_its_latent_weights(bits: list[tuple[int, int]]) -> None:
    model = warm(chain())
    first = quantize(model, (batch(),), scheme="dorefa", w_bits=bits[0][0], a_bits=bits[0][1])
    for w_bits, a_bits in bits[1:]:
        first = quantize(restore_float(first), (batch(),), scheme="dorefa", w_bits=w_bits, a_bits=a_bits)
    direct = quantize(model, (batch(),), scheme="dorefa", w_bits=bits[-1][0], a_bits=bits[-1][1])
    for net in (first, direct):
        calibrate(net, [batch()])
    assert same(first, direct, batch())
