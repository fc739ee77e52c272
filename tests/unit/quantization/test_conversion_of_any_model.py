"""One contract for every construction: close to float, trains, takes any batch, survives copies and files."""

from __future__ import annotations

import copy
import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mcomp import surgery
from mcomp.artifact import save_model
from mcomp.quantization import calibrate, fold_batch_norms, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.summary import decision_table, describe, float_layers, quantized_layers
from tests.unit.quantization.conversion_nets import CASES, build

everything = pytest.mark.parametrize("name", CASES)


@functools.cache
def _pair(name: str) -> tuple[nn.Module, nn.Module]:
    model = build(name)
    inputs = CASES[name].inputs
    quantised = quantize(model, (inputs(4),), scheme="iao", calibration=[inputs(8), inputs(8)])
    return model, quantised.eval()


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A float model and its W8A8 form, fresh copies of a conversion that is made once."""
    return copy.deepcopy(_pair(name)[0]), copy.deepcopy(_pair(name)[1])


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@torch.no_grad()
def sqnr(found: Any, expected: Any) -> float:
    signal = sum(float(x.double().square().sum()) for x in tensors(expected))
    noise = sum(float((x - y).double().square().sum()) for x, y in zip(tensors(expected), tensors(found), strict=True))
    return 10 * math.log10(signal / noise) if noise else math.inf


@everything
def test_eight_bits_are_close_to_float_at_any_batch_size(name: str) -> None:
    model, quantised = pair(name)
    for count in (1, 7):
        x = CASES[name].inputs(count)
        with torch.no_grad():
            expected, found = model(x), quantised(x)
        assert sqnr(found, expected) > CASES[name].sqnr - 5 * (count == 1)  # one sample's noise does not average out
        assert type(found) is type(expected)


@everything
def test_the_route_is_the_one_that_sees_most_and_nothing_stays_float(name: str) -> None:
    _, quantised = pair(name)
    entry = surgery.provenance(quantised).log[-1]
    assert entry["route"] == CASES[name].route
    floats = float_layers(quantised)
    if entry["route"] == "modules":
        assert set(floats) == {"matmul in the model"}
        assert "control flow" in entry["why_route"]
    else:
        assert floats == {}


@everything
def test_parameters_and_buffers_keep_their_names(name: str) -> None:
    model, quantised = pair(name)
    of_quantisers = tuple(
        f"{path}."
        for path, module in quantised.named_modules()
        if path in quantizers(quantised) or path.endswith("weight_quantizer")
    )
    kept = {key for key in quantised.state_dict() if not key.startswith(of_quantisers)}
    assert kept == set(model.state_dict())


@everything
def test_training_moves_what_it_moves_in_float(name: str) -> None:
    _, quantised = pair(name)
    quantised.train()
    before = copy.deepcopy(quantised.state_dict())
    torch.manual_seed(3)
    output = quantised(CASES[name].inputs(6))
    sum(x.double().square().mean() for x in tensors(output) if x.is_floating_point()).backward()
    without = [
        key for key, parameter in quantised.named_parameters() if parameter.grad is None and parameter.requires_grad
    ]
    assert without == []
    norms = [m for m in quantised.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    moved = {key for key, value in quantised.state_dict().items() if not torch.equal(before[key], value)}
    assert sum(key.endswith("running_mean") for key in moved) == len(norms)
    if any(isinstance(m, nn.Dropout) and m.p for m in quantised.modules()):
        x = CASES[name].inputs(6)
        first, second = tensors(quantised(x)), tensors(quantised(x))
        assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    quantised.eval()
    after = copy.deepcopy(quantised.state_dict())
    quantised(CASES[name].inputs(2))
    assert all(torch.equal(after[key], value) for key, value in quantised.state_dict().items())


@everything
def test_a_fresh_conversion_takes_the_state_of_another(name: str) -> None:
    model, quantised = pair(name)
    inputs = CASES[name].inputs
    fresh = quantize(model, (inputs(4),), scheme="iao")
    fresh.load_state_dict(quantised.state_dict())
    assert calibrate(fresh, []) == []
    x = inputs(3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(fresh.eval()(x)), tensors(quantised(x)), strict=True))


@everything
def test_a_deep_copy_is_a_model_of_its_own(name: str) -> None:
    _, quantised = pair(name)
    x = CASES[name].inputs(3)
    copied = copy.deepcopy(quantised)
    expected = tensors(quantised(x))
    with torch.no_grad():
        for parameter in quantised.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(a, b) for a, b in zip(tensors(copied(x)), expected, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(tensors(quantised(x)), expected, strict=True))


@everything
def test_every_tensor_has_a_row_with_its_decision(name: str) -> None:
    _, quantised = pair(name)
    rows = describe(quantised)
    assert len({row["name"] for row in rows}) == len(rows)
    activations = [row for row in rows if row["kind"] == "activation"]
    assert len(activations) == len(quantizers(quantised))
    assert all(row["readers"] and row["observer"] and row["high"] is not None for row in activations)
    weights = [row for row in rows if row["kind"] == "weight" and row["bits"] == 8]
    assert len(weights) == len(quantized_layers(quantised))
    text = decision_table(rows).splitlines()
    assert len(text) == len(rows) + 1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.route != "modules"])
def test_folding_changes_nothing_that_it_can_see(name: str) -> None:
    _, quantised = pair(name)
    folded = fold_batch_norms(quantised, (CASES[name].inputs(3),))
    assert folded.error < 1e-5
    x = CASES[name].inputs(3)
    assert sqnr(folded.model(x), quantised(x)) > 35
    norms = [path for path, m in quantised.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert folded.count + len(folded.left) == len(norms)
    assert list(float_layers(folded.model)) == []


def test_every_artifact_loads_in_a_fresh_process(tmp_path: Path) -> None:
    for name in CASES:
        _, quantised = pair(name)
        if name == "structured_output":
            continue  # an artifact is fingerprinted by one tensor of logits
        if name in ("unet", "loop_over_a_shape"):
            quantised = fold_batch_norms(quantised, (CASES[name].inputs(3),)).model
        save_model(quantised, tmp_path / name, (CASES[name].inputs(2),))
        x = CASES[name].inputs(3)
        torch.save((x, quantised(x).detach()), tmp_path / f"{name}.pt")
    code = (
        "import sys, torch, pathlib\n"
        "from mcomp import load_model\n"
        "from tests.unit.quantization.conversion_nets import CASES\n"
        "for file in sorted(pathlib.Path(sys.argv[1]).glob('*.pt')):\n"
        "    x, expected = torch.load(file)\n"
        "    torch.manual_seed(99)\n"
        "    model = load_model(file.with_suffix(''), model=CASES[file.stem].build())\n"
        "    with torch.no_grad():\n"
        "        assert torch.equal(model(x), expected), file.stem\n"
        "    print(file.stem)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(CASES) - 1


def test_a_layer_used_twice_quantises_its_weight_once_per_step() -> None:
    _, quantised = pair("shared_layer")
    layer = quantised.get_submodule("twice")
    assert isinstance(layer, QuantizedWeight)
    calls = []
    layer.weight_quantizer.register_forward_hook(lambda *_: calls.append(1))
    quantised.train()
    x = CASES["shared_layer"].inputs(4)
    for step in (1, 2):  # gradients are summed: the weight did not change, its graph is gone all the same
        quantised(x).sum().backward()
        assert len(calls) == step


@pytest.mark.parametrize("name", ["unet", "lstm", "attention_by_hand", "bare_parameters", "exported_attention"])
@pytest.mark.parametrize("scheme", ["dorefa", "lsq", "lsq_plus", "pact", "ristretto", "wbwtab"])
def test_every_scheme_converts_and_trains(name: str, scheme: str) -> None:
    model = build(name)
    inputs = CASES[name].inputs
    quantised = quantize(model, (inputs(4),), scheme=scheme, calibration=[inputs(8)])
    output = quantised.train()(inputs(4))
    output.square().mean().backward()
    assert bool(torch.isfinite(output).all())
    assert quantized_layers(quantised)


@pytest.mark.parametrize("name", ["attention_function", "encoder_pre_batch_first", "gru", "unet", "control_flow"])
def test_four_bits_convert(name: str) -> None:
    model = build(name)
    inputs = CASES[name].inputs
    quantised = quantize(model, (inputs(4),), scheme="iao", w_bits=4, a_bits=4, calibration=[inputs(8)]).eval()
    x = inputs(4)
    assert sqnr(quantised(x), model(x)) > 0
    sixteen = quantize(model, (x,), scheme="iao", w_bits=16, a_bits=16, observer="minmax", calibration=[x]).eval()
    assert sqnr(sixteen(x), model(x)) > 60
