"""Values that are no numbers, and tensors that hold none: what quantisers make of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mcomp.errors import StageError
from mcomp.quantization import quantize
from mcomp.quantization.quantizers import (
    ActivationQuantizer,
    AffineQuantizer,
    BinaryActivation,
    BinaryWeight,
    DoReFaActivation,
    DoReFaWeight,
    DynamicQuantizer,
    LSQPlusQuantizer,
    LSQuantizer,
    PACTQuantizer,
    Quantizer,
    RistrettoQuantizer,
    TernaryWeight,
)

NAN, INF = float("nan"), float("inf")
DOREFA: dict[str, Callable[[], Quantizer]] = {
    "per layer": lambda: DoReFaWeight(8),
    "per channel": lambda: DoReFaWeight(8, per_channel=True),
    "tanh": lambda: DoReFaWeight(8, tanh=True),
    "paper": lambda: DoReFaWeight(8, "paper"),
}
ALL: dict[str, Callable[[], Quantizer]] = {
    **DOREFA,
    "affine": lambda: AffineQuantizer(8, observer="moving_average"),
    "affine, calibrated": lambda: AffineQuantizer(8, observer="mse"),
    "affine weight": lambda: AffineQuantizer(8, channel_axis=0),
    "activation": lambda: ActivationQuantizer(8, True),
    "lsq": lambda: LSQuantizer(8),
    "lsq plus": lambda: LSQPlusQuantizer(8),
    "pact": lambda: PACTQuantizer(8),
    "dynamic": DynamicQuantizer,
    "ristretto": lambda: RistrettoQuantizer(8),
    "dorefa activation": lambda: DoReFaActivation(8, "paper"),
    "binary": BinaryWeight,
    "ternary": TernaryWeight,
    "binary activation": BinaryActivation,
}


@pytest.mark.parametrize("codes", ["pm1", "01"])
@pytest.mark.parametrize("ste", ["saturate_ste", "ste", "soft_ste"])
@pytest.mark.parametrize("training", [True, False])
def test_the_sign_of_nan_is_nan_and_every_number_has_one(codes: str, ste: str, training: bool) -> None:
    quantizer = BinaryActivation(ste, codes).train(training)  # type: ignore[arg-type]
    smallest = 2.0**-149
    x = torch.tensor([NAN, -INF, -3e38, -1.0, -smallest, -0.0, 0.0, smallest, 1e-3, 3e38, INF])
    low = -1.0 if codes == "pm1" else 0.0
    expected = torch.tensor([NAN, *[low] * 4, *[1.0] * 6])
    torch.testing.assert_close(quantizer(x.requires_grad_(training)).detach(), expected, equal_nan=True, rtol=0, atol=0)
    for kind in (torch.float64, torch.bfloat16, torch.float16):
        tiny = torch.tensor([NAN, -1.0, 0.0, 2.0], dtype=kind)
        found = quantizer(tiny)
        assert found.dtype == kind
        torch.testing.assert_close(found, expected[[0, 3, 6, 9]].to(kind), equal_nan=True, rtol=0, atol=0)
    doubles = torch.tensor([-5e-324, 5e-324], dtype=torch.float64)
    assert torch.equal(quantizer(doubles), torch.tensor([low, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("build", [BinaryWeight, TernaryWeight])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 3, 3), (3, 1, 3, 3)])
def test_a_filter_that_holds_nan_is_nan(build: Callable[[], Quantizer], shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    weight[1].view(-1)[2] = NAN
    made = build()(weight)
    assert made[1].isnan().all()
    assert made[[0, 2]].isfinite().all()


@pytest.mark.parametrize("build", DOREFA.values(), ids=DOREFA)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_weight_that_is_no_number_has_no_largest_magnitude(build: Callable[[], Quantizer], bad: float) -> None:
    weight = torch.randn(4, 3)
    weight[1, 2] = bad
    with pytest.raises(StageError) as refused:
        build()(weight)
    assert refused.value.code == "MC424"


def test_a_weight_that_tanh_saturates_is_quantised_all_the_same() -> None:
    weight = torch.tensor([[40.0, -0.5], [0.2, 0.1]])
    assert DoReFaWeight(8, "paper")(weight).isfinite().all()


def test_a_network_of_binary_activations_does_not_hide_nan() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 10, 10)
    made = quantize(net.eval(), (x,), scheme="wbwtab", calibration=[x]).eval()
    with torch.no_grad():
        assert made(x).isfinite().all()
        made.get_submodule("0").bias.fill_(NAN)
        assert made(x).isnan().all()


@pytest.mark.parametrize("build", ALL.values(), ids=ALL)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_tensor_without_elements_passes_as_it_is(build: Callable[[], Quantizer], kind: torch.dtype) -> None:
    quantizer = build().train()
    before = {name: each.clone() for name, each in quantizer.state_dict().items()}
    x = torch.zeros(0, 3, 4, dtype=kind, requires_grad=True)
    y = quantizer(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    y.sum().backward()
    assert x.grad is not None
    assert all(torch.equal(each, before[name]) for name, each in quantizer.state_dict().items())
    quantizer(torch.randn(5, 3, 4))  # the first batch that holds something sets the range
    assert quantizer.ready


@pytest.mark.parametrize("build", [BinaryWeight, TernaryWeight])
@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (512, 64, 3, 3), (33, 17, 5, 5), (700, 2048), (7, 300, 7)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_integers_times_scale_are_the_weight_to_the_last_bit_in_every_layout(
    build: Callable[[], Quantizer], shape: tuple[int, ...], axis: int, last: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * torch.rand(shape[0], *[1] * (len(shape) - 1))
    if last and len(shape) == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    seen = weight.movedim(axis, 0)
    quantizer = build()
    assert torch.equal(quantizer(seen), quantizer.integer(seen).dequantize())
