from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp.errors import RecipeError
from mcomp.quantization import fold_batch_norms, freeze, quantize
from mcomp.quantization.calibration import quantizers, weight_quantizers
from mcomp.quantization.layers import QuantizedLayer
from mcomp.recipe import Recipe
from mcomp.stages.builtin.qaft import train_weights
from tests.unit.quantization.quantization_nets import batch as pictures
from tests.unit.quantization.quantization_nets import chain, warm

ON_THE_CPU = {"device": "cpu", "precision": "fp32"}


@pytest.mark.parametrize("scheme", ["dorefa", "iao", "lsq", "pact"])
def test_weights_move_and_ranges_and_statistics_do_not(scheme: str) -> None:
    data = mcomp.data.load(name="synthetic", num_classes=3, samples=64, image_size=12)
    model: Any = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    quantised = mcomp.stages.quantize(model, data, scheme=scheme, epochs=0, **ON_THE_CPU).model
    before = copy.deepcopy(quantised.state_dict())
    done = mcomp.stages.qaft(quantised, data, epochs=1, lr=0.05, **ON_THE_CPU)
    weights = {f"{name}.weight" for name, each in quantised.named_modules() if isinstance(each, nn.Conv2d)}
    after = done.model.state_dict()
    still = [name for name in before if "quantizer" in name or "running_" in name]
    assert still
    assert all(torch.equal(after[name], before[name]) for name in still)
    assert any(not torch.equal(after[name], before[name]) for name in weights)


def test_a_float_network_has_no_ranges_to_freeze() -> None:
    text = "version: 1\nname: r\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [train, qaft]\n"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text)
    assert caught.value.diagnostics[0].code == "MC113"


CONVERSIONS: list[dict[str, Any]] = [
    {"scheme": "iao"},
    {"scheme": "iao", "symmetric_weights": False, "symmetric_activations": False},
    {"scheme": "iao", "per_channel": False},
    {"scheme": "dorefa"},
    {"scheme": "dorefa", "tanh": True},
    {"scheme": "pact"},
    {"scheme": "ristretto"},
    {"scheme": "ristretto", "overflow": "saturate"},
    {"scheme": "lsq"},
    {"scheme": "lsq_plus"},
]


def batch(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    torch.manual_seed(0)
    return mcomp.models.build("lenet")


def converted(options: dict[str, Any]) -> nn.Module:
    return quantize(network(), (batch(),), calibration=[batch()], **options)


def trained(model: nn.Module, steps: int = 3, lr: float = 0.05) -> nn.Module:
    model.train()
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(learning, lr)
    for step in range(steps):
        optimizer.zero_grad()
        (3 * model(batch(step + 1))).square().mean().backward()
        optimizer.step()
    return model.eval()


def grids(model: nn.Module) -> list[Tensor]:
    """Scale and zero point of every quantiser, of the weight at hand where it is one of a weight."""
    layers = [each for each in model.modules() if isinstance(each, QuantizedLayer) and each.weight_quantizer.bits < 32]
    found = [each.weight_quantizer.qparams(each.weight) for each in layers]
    found += [each.qparams() for each in quantizers(model).values()]
    return [torch.as_tensor(end) for each in found for end in (each.scale, each.zero_point)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) > 0 and all(torch.equal(*each) for each in zip(left, right, strict=True))


@pytest.mark.parametrize("options", CONVERSIONS)
def test_scales_of_a_frozen_network_stay_while_its_weights_train(options: dict[str, Any]) -> None:
    model = converted(options)
    assert not still(model)
    before, weights = grids(freeze(model)), [each.detach().clone() for each in model.parameters() if each.dim() > 1]
    after = trained(model)
    assert same(grids(after), before)
    assert not same([each for each in after.parameters() if each.dim() > 1], weights)
    for layer in (each for each in after.modules() if isinstance(each, QuantizedLayer)):
        if layer.weight_quantizer.bits < 32:
            assert torch.equal(layer.integer_weight().dequantize(), layer.quantized_weight())
    assert fold_batch_norms(after, (batch(),)).error < 1e-5


@pytest.mark.parametrize("options", CONVERSIONS)
def test_freezing_changes_no_output(options: dict[str, Any]) -> None:
    model = converted(options).eval()
    with torch.no_grad():
        before, scales = model(batch(1)), [each for each in grids(model) if each.is_floating_point()]
        after = freeze(model)(batch(1))
    assert same([each for each in grids(model) if each.is_floating_point()], scales)
    assert torch.allclose(after, before, atol=1e-3 * float(before.abs().max()))


@pytest.mark.parametrize("options", [each for each in CONVERSIONS if not each["scheme"].startswith("lsq")])
def test_a_weight_that_leaves_its_frozen_range_gets_no_gradient(options: dict[str, Any]) -> None:
    model = freeze(converted(options))
    quantizer = next(each for each in weight_quantizers(model).values() if each.bits < 32)
    layer = next(each for each in model.modules() if getattr(each, "weight_quantizer", None) is quantizer)
    assert isinstance(layer, QuantizedLayer)
    reach = 1.0 if options.get("tanh") else 100.0
    if not options.get("tanh"):
        with torch.no_grad():
            layer.weight[0].mul_(reach)
    weight = layer.weight.detach().clone().requires_grad_()
    quantizer(weight).backward(torch.ones_like(weight))
    grid = quantizer.qparams()
    scale, zero = (
        torch.as_tensor(each).reshape(-1, *[1] * (weight.dim() - 1)) for each in (grid.scale, grid.zero_point)
    )
    level = (weight.detach().tanh() if options.get("tanh") else weight.detach()) / scale
    inside = ((level >= grid.qmin - zero) & (level <= grid.qmax - zero)).float()
    slope = 1 - weight.detach().tanh().square() if options.get("tanh") else 1.0
    assert weight.grad is not None
    assert torch.allclose(weight.grad, inside * slope)
    assert options.get("tanh") or 0 < inside.mean() < 1


def still(model: nn.Module) -> bool:
    """Whether training leaves all ranges where they are."""
    after = trained(copy.deepcopy(model))
    with torch.no_grad():  # far enough for a range of a power of two
        for layer in (each for each in after.modules() if isinstance(each, QuantizedLayer)):
            layer.weight.mul_(4)
    return same(grids(after), grids(model))


@pytest.mark.parametrize("options", CONVERSIONS)
def test_a_frozen_network_is_frozen_when_it_is_loaded_again(options: dict[str, Any], tmp_path: Path) -> None:
    model = trained(freeze(converted(options)))
    mcomp.save_model(model, tmp_path / "saved", (batch(),))
    loaded = mcomp.load_model(tmp_path / "saved")
    assert same(grids(loaded), grids(model))
    assert still(loaded)
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name, each in loaded.named_parameters() if each.requires_grad} == learning


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("options", CONVERSIONS)
def test_what_is_loaded_decides_whether_ranges_move(options: dict[str, Any], frozen: bool) -> None:
    source = trained(freeze(converted(options)))
    target = converted(options)
    target = freeze(target) if frozen else target
    target.load_state_dict(source.state_dict())
    assert same(grids(target), grids(source))
    assert still(target)
    moving = converted(options)  # as are states that were saved before ranges could be frozen
    target.load_state_dict(moving.state_dict())
    assert same(grids(target), grids(moving))
    assert not still(target)


@pytest.mark.parametrize("variant", ["paper", "micronet"])
def test_a_published_dorefa_formula_has_levels_that_are_constants_before_and_after(variant: str) -> None:
    model = converted({"scheme": "dorefa", "variant": variant}).eval()
    with torch.no_grad():
        before, expected = model(batch(1)), grids(model)
        assert torch.equal(freeze(model)(batch(1)), before)
    after = trained(model)
    assert same(grids(after), expected)
    layers = [each for each in after.modules() if isinstance(each, QuantizedLayer) and each.weight_quantizer.bits < 32]
    for layer in layers:  # odd multiples of 1 / 255 and nothing else
        odd = layer.quantized_weight().detach() * 255
        assert torch.allclose(odd, ((odd - 1) / 2).round() * 2 + 1, atol=1e-3)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("folding", ["batch", "correction"])
def test_a_folded_weight_trains_on_while_ranges_and_statistics_stand_still(folding: str, per_channel: bool) -> None:
    options: dict[str, Any] = {"scheme": "iao", "fold_bn": folding, "per_channel": per_channel}
    inputs = [pictures(12, seed=seed) for seed in range(4)]
    model = quantize(warm(chain()), (inputs[0],), calibration=inputs, **options).eval()
    with torch.no_grad():
        before = model(inputs[1])
        assert torch.equal(freeze(model)(inputs[1]), before)
    held = {name: value.clone() for name, value in model.state_dict().items()}
    train_weights(model)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.05)
    for images in inputs:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, held[name])}
    assert "0.weight" in moved
    assert not [name for name in moved if "running_" in name or "quantizer" in name]
    # what is folded afterwards is what was trained: the range of each folded weight is its own
    assert fold_batch_norms(model.eval(), (inputs[0],)).error < 1e-5


@pytest.mark.parametrize("w_bits", [1, 2])
def test_binary_and_ternary_weights_have_no_range_to_freeze(w_bits: int) -> None:
    model = freeze(converted({"scheme": "wbwtab", "w_bits": w_bits}))
    assert all(each.constant and each.held_grid() is None for each in weight_quantizers(model).values())
