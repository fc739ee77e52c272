"""Every classification model of torchvision converts at W8A8 without training; random weights, batch norms warm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mcomp.quantization import correct_bias, quantize
from mcomp.quantization.summary import float_layers, quantized_layers
from tests.unit.quantization.test_conversion_of_any_model import sqnr

torchvision = pytest.importorskip("torchvision")

#: Hundreds of millions of parameters each, of the same construction as a smaller sister.
TOO_LARGE = {"regnet_y_128gf", "vit_h_14"}
NAMES = sorted(set(torchvision.models.list_models(module=torchvision.models)) - TOO_LARGE)
ATTENTION = ("swin", "vit", "maxvit")
#: Chains of 16 and more layers without a shortcut: a Gaussian weight and half a Gaussian at 8 bits have 40 dB each,
#: 24 dB in all. A third of the weights' part is the error of the mean that a ReLU leaves, and a bias takes it back.
CORRECTED = {"vgg16_bn", "vgg19_bn", "regnet_x_8gf"}
#: One of each family, for every day.
QUICK = {"resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "googlenet", "mnasnet0_5"}
SIZES = {"inception_v3": 299, "alexnet": 96}


def warm(name: str) -> nn.Module:
    """A model with activations of ordinary size: its statistics come from one batch, and no head is zero."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            nn.init.normal_(module.weight, std=0.02)
    with torch.no_grad():
        model.train()(images(name))
    return model.eval()


def images(name: str) -> torch.Tensor:
    size = 224 if name.startswith(("vit", "maxvit")) else SIZES.get(name, 64)
    return torch.randn(4 if size < 200 else 2, 3, size, size)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_it_converts_whole_and_stays_close(name: str) -> None:
    model = warm(name)
    example = images(name)
    quantised = quantize(model, (example,), scheme="iao", calibration=[example, images(name)]).eval()
    for layer, why in float_layers(quantised).items():
        assert layer.lower().startswith("aux")
        assert "eval mode" in why
    if name in CORRECTED:
        correct_bias(quantised, model, [example, images(name)])
    x = images(name)
    with torch.no_grad():
        found, expected = quantised(x), model(x)
    assert sqnr(found, expected) > (12 if name.startswith(ATTENTION) else 25)
    with torch.no_grad():
        assert quantised(x[:1]).shape == (1, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(QUICK | {"vit_b_32", "swin_t", "densenet121", "convnext_tiny", "efficientnet_b0"})
)
def test_four_bits_convert(name: str) -> None:
    model = warm(name)
    example = images(name)
    quantised = quantize(model, (example,), scheme="iao", w_bits=4, a_bits=4, calibration=[example]).eval()
    assert {layer.weight_quantizer.bits for layer in quantized_layers(quantised).values()} == {4}  # type: ignore[union-attr]
    with torch.no_grad():
        assert sqnr(quantised(example), model(example)) > 0
