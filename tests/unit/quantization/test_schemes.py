from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mcomp import surgery
from mcomp.errors import UsageError
from mcomp.quantization import calibrate, fold_batch_norms, freeze, quantize
from mcomp.quantization.calibration import quantizers, weight_quantizers
from mcomp.quantization.config import SCHEMES, QuantizeConfig
from mcomp.quantization.conversion import convert
from mcomp.quantization.quantizers import (
    AffineQuantizer,
    BinaryActivation,
    BinaryWeight,
    DoReFaWeight,
    LSQPlusQuantizer,
    LSQuantizer,
    PACTQuantizer,
    Quantizer,
    RistrettoQuantizer,
    TernaryWeight,
)
from mcomp.quantization.summary import describe, float_layers
from mcomp.quantization.tracing import trace
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm

ALL: dict[str, dict[str, Any]] = {
    "dorefa": {},
    "dorefa paper": {"variant": "paper"},
    "iao": {},
    "iao asymmetric": {"symmetric_weights": False, "symmetric_activations": False, "per_channel": False},
    "iao observed": {"observer": "percentile"},
    "iao folded": {"fold_bn": "batch", "per_channel": False},
    "dynamic": {},
    "lsq": {},
    "lsq_plus": {},
    "pact": {},
    "ristretto": {},
    "ristretto saturate": {"overflow": "saturate"},
    "ristretto folded": {"fold_bn": "correction"},
    "wbwtab": {},
    "wbwtab ternary": {"w_bits": 2, "a_bits": 32},
}
every = pytest.mark.parametrize("name", ALL)


def ready(model: nn.Module, name: str, **more: Any) -> nn.Module:
    made = quantize(model, (batch(),), scheme=name.split()[0], **ALL[name], **more)
    calibrate(made, [batch(32)])
    return made


def near(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("name", [name for name in ALL if "wbwtab" not in name and "paper" not in name])
def test_eight_bits_keep_the_output_of_a_float_model(name: str) -> None:
    model = warm(Residual())
    assert near(ready(model, name).eval()(batch(seed=9)), model(batch(seed=9))) < 0.08


@every
def test_every_scheme_trains_and_every_parameter_gets_a_gradient(name: str) -> None:
    bits = {} if "wbwtab" in name else {"w_bits": 4, "a_bits": 8 if name == "dynamic" else 4}
    quantised = ready(warm(Residual()), name, **bits).train()
    optimizer = torch.optim.SGD(quantised.parameters(), lr=0.01)
    x, y = batch(16), torch.arange(16) % 5
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(quantised(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in quantised.parameters())


@every
def test_a_rebuilt_model_with_the_same_tensors_predicts_the_same(name: str) -> None:
    model = warm(Residual())
    quantised = ready(model, name)
    quantised.train()(batch(seed=5))  # moving observers have moved
    (entry,) = surgery.provenance(quantised).log
    entry = json.loads(json.dumps(entry))
    fresh = warm(Residual(), seed=8)
    rebuilt = convert(fresh, trace(fresh), QuantizeConfig.recorded(entry))
    rebuilt.load_state_dict(quantised.state_dict())
    x = batch(seed=9)
    assert torch.equal(rebuilt.eval()(x), quantised.eval()(x))
    assert torch.equal(copy.deepcopy(quantised)(x), quantised(x))


@every
def test_folding_batch_norms_changes_no_integer_and_no_layer(name: str) -> None:
    quantised = ready(warm(Residual()), name).eval()
    assert fold_batch_norms(quantised, (batch(),)).error < 1e-5


@every
def test_the_table_speaks_of_every_scheme(name: str) -> None:
    rows = describe(ready(warm(chain()), name))
    assert json.dumps(rows)
    assert len(rows) == len({row["name"] for row in rows})
    own = [row for row in rows if row["scheme"] == "dynamic" and row["kind"] == "activation"]
    assert all(row["scale"] is None for row in own)  # of each tensor
    assert all(row["scale"] > 0 for row in rows if row["bits"] < 32 and row not in own)


def test_each_scheme_has_the_quantisers_of_its_paper() -> None:
    kinds: dict[str, tuple[type[Quantizer], set[type[Quantizer]]]] = {
        "iao": (AffineQuantizer, {AffineQuantizer}),
        "lsq": (LSQuantizer, {LSQuantizer}),
        "lsq_plus": (LSQuantizer, {LSQuantizer, LSQPlusQuantizer}),
        "pact": (DoReFaWeight, {PACTQuantizer}),
        "ristretto": (RistrettoQuantizer, {RistrettoQuantizer}),
    }
    for scheme, (weight, activations) in kinds.items():
        quantised = quantize(warm(chain()), (batch(),), scheme=scheme)
        assert len(weight_quantizers(quantised)) == 4
        assert float_layers(quantised) == {}
        assert {type(module) for module in weight_quantizers(quantised).values()} == {weight}
        assert {type(module) for module in quantizers(quantised).values()} == activations
        assert [module.signed for module in weight_quantizers(quantised).values()] == [True] * 4


def test_binary_activations_take_the_place_of_the_relu_and_the_ends_stay_float() -> None:
    quantised: Any = quantize(warm(chain()), (batch(),), scheme="wbwtab")
    assert set(float_layers(quantised)) == {"0", "11"}
    assert {type(module) for module in weight_quantizers(quantised).values()} == {BinaryWeight}
    found = quantizers(quantised)
    assert [type(module) for module in found.values()] == [BinaryActivation] * 2
    makers = [
        node.all_input_nodes[0].target
        for node in quantised.graph.nodes
        if node.op == "call_module" and str(node.target) in found
    ]
    assert makers == ["1", "4"]  # the batch norms
    called = [str(node.target) for node in quantised.graph.nodes]
    assert "8" in called  # the ReLU in front of the float end
    assert "2" not in called
    assert calibrate(quantised, [batch()]) == []


def test_binary_and_ternary_may_be_mixed_by_layer() -> None:
    quantised = quantize(
        warm(chain()), (batch(),), scheme="wbwtab", overrides={"3": {"w_bits": 2}}, last_layer_float=False
    )
    kinds = {name: type(module) for name, module in weight_quantizers(quantised).items()}
    assert kinds == {"3": TernaryWeight, "6": BinaryWeight, "11": BinaryWeight}


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "wbwtab", "w_bits": 8},
        {"scheme": "wbwtab", "a_bits": 2},
        {"scheme": "wbwtab", "overrides": {"3": {"w_bits": 4}}},
        {"scheme": "wbwtab", "ste": "hard"},
        {"scheme": "lsq", "variant": "paper"},
        {"scheme": "lsq", "per_channel": True},
        {"scheme": "iao", "observer": "median"},
        {"scheme": "iao", "w_bits": 1},
        {"scheme": "ristretto", "overflow": "wrap"},
        {"scheme": "dorefa", "tanh": "yes"},
    ],
)
def test_what_a_scheme_does_not_offer_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        quantize(warm(chain()), (batch(),), **options)
    assert caught.value.code == "MC427"
    assert caught.value.hint


def test_the_registry_is_complete() -> None:
    assert set(SCHEMES) == {name.split()[0] for name in ALL}


def test_a_record_of_an_earlier_version_is_understood() -> None:
    entry = {"op": "quantize", "scheme": "dorefa", "w_bits": 4, "a_bits": 8, "variant": "paper", "tanh": False}
    entry |= {"levels": 127, "skip": [], "first_layer_float": True, "overrides": {}, "per_channel": False}
    config = QuantizeConfig.recorded({**entry, "float_layers": {}})
    assert (config.w_bits, config.levels, config.last_layer_float) == (4, 127, False)
    assert config.options == {"variant": "paper", "tanh": False}


def test_the_kept_weight_follows_a_learned_scale() -> None:
    quantised = ready(warm(chain()), "lsq").eval()
    layer: Any = quantised.get_submodule("3")
    with torch.no_grad():
        before = layer.quantized_weight()
        assert layer.quantized_weight() is before
        layer.weight_quantizer.scale.mul_(4)
        assert torch.equal(layer.quantized_weight(), layer.weight_quantizer(layer.weight))
        assert not torch.equal(layer.quantized_weight(), before)


def test_freezing_stops_learned_scales_and_moving_averages() -> None:
    for scheme in ("lsq", "lsq_plus", "pact", "iao"):
        quantised = freeze(ready(warm(chain()), scheme))
        ranges = {name: value.clone() for name, value in quantised.state_dict().items() if "quantizer" in name}
        quantised.train()(batch(seed=3) * 9)
        assert all(torch.equal(quantised.state_dict()[name], value) for name, value in ranges.items())
        names = [name for name, parameter in quantised.named_parameters() if parameter.requires_grad]
        assert not [name for name in names if "quantizer" in name]
