"""What holds for every quantiser, whatever its formula."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from mcomp.errors import StageError
from mcomp.quantization.quantizers import (
    AffineQuantizer,
    BinaryActivation,
    BinaryWeight,
    DoReFaActivation,
    DoReFaWeight,
    LSQPlusQuantizer,
    LSQuantizer,
    PACTQuantizer,
    Quantizer,
    RistrettoQuantizer,
    TernaryWeight,
)
from tests.unit.quantization.quantization_nets import tensors

Build = Callable[[], Quantizer]

WEIGHTS: dict[str, Build] = {
    "affine": lambda: AffineQuantizer(8),
    "affine per channel": lambda: AffineQuantizer(4, channel_axis=0),
    "affine asymmetric": lambda: AffineQuantizer(8, False, 0),
    "affine unsigned asymmetric": lambda: AffineQuantizer(8, False, 0, signed=False),
    "lsq": lambda: LSQuantizer(4, of_weight=True),
    "ristretto": lambda: RistrettoQuantizer(8),
    "ristretto saturate": lambda: RistrettoQuantizer(4, "saturate"),
    "dorefa": lambda: DoReFaWeight(8),
    "dorefa per channel": lambda: DoReFaWeight(4, per_channel=True),
    "dorefa tanh": lambda: DoReFaWeight(4, tanh=True),
    "dorefa paper": lambda: DoReFaWeight(4, "paper"),
    "binary": BinaryWeight,
    "ternary": TernaryWeight,
}
ACTIVATIONS: dict[str, Build] = {
    "affine": lambda: AffineQuantizer(8, observer="mse"),
    "affine unsigned": lambda: AffineQuantizer(8, observer="mse", signed=False),
    "affine moving": lambda: AffineQuantizer(4, False, observer="moving_average", signed=False),
    "affine at run time": lambda: AffineQuantizer(8, False),
    "lsq": lambda: LSQuantizer(4),
    "lsq unsigned": lambda: LSQuantizer(4, False, nonnegative_input=True),
    "lsq plus": lambda: LSQPlusQuantizer(4),
    "pact": lambda: PACTQuantizer(4),
    "pact signed": lambda: PACTQuantizer(4, True),
    "ristretto": lambda: RistrettoQuantizer(8, observer="minmax"),
    "dorefa": lambda: DoReFaActivation(8, signed=True),
    "dorefa paper": lambda: DoReFaActivation(4, "paper"),
    "dorefa micronet": lambda: DoReFaActivation(4, "micronet"),
    "binary": BinaryActivation,
    "binary 01": lambda: BinaryActivation("soft_ste", "01"),
}
EVERY = {**{f"weight: {name}": build for name, build in WEIGHTS.items()}, **ACTIVATIONS}
every = pytest.mark.parametrize("build", EVERY.values(), ids=EVERY)
every_weight = pytest.mark.parametrize("build", WEIGHTS.values(), ids=WEIGHTS)
every_activation = pytest.mark.parametrize("build", ACTIVATIONS.values(), ids=ACTIVATIONS)


def trained(build: Build, x: Tensor) -> Quantizer:
    """Ready, as after a first training batch."""
    quantizer = build().train()
    quantizer(x)
    return quantizer


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(3)).to(dtype)


@every_weight
@given(w=tensors())
@settings(max_examples=25)
def test_the_integers_are_the_quantised_weight_bit_for_bit(build: Build, w: Tensor) -> None:
    quantizer = build()
    quantizer.initialise(w)
    integer = quantizer.integer(w)
    assert integer.exact
    assert integer.values.dtype == torch.int32
    assert torch.equal(integer.dequantize(), quantizer(w))
    assert float(integer.scale.min()) > 0
    plain = integer.centred()
    assert torch.equal(plain.dequantize(), integer.dequantize())
    assert int(plain.values.abs().max()) < 2 ** (quantizer.integer_bits - 1) + (not quantizer.symmetric)


@every_weight
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_weights_that_are_not_numbers_have_no_integers(build: Build, poison: float) -> None:
    with pytest.raises(StageError, match="inf or nan"):
        build().integer(torch.tensor([[1.0, poison]]))


@every
def test_a_result_has_the_shape_type_and_memory_format_of_its_input(build: Build) -> None:
    quantizer = trained(build, images()).eval()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images(dtype).contiguous(memory_format=layout)
            plain = quantizer(x)
            leaf = x.clone().requires_grad_()
            with_gradient = quantizer(leaf)
            with_gradient.sum().backward()
            for found in (plain, with_gradient, leaf.grad):
                assert found is not None
                assert (found.dtype, found.shape, found.stride()) == (dtype, x.shape, x.stride())
            assert torch.equal(plain, with_gradient)
            if layout is torch.channels_last and not isinstance(quantizer, (BinaryWeight, TernaryWeight)):
                assert torch.equal(plain, quantizer(images(dtype)))  # theirs are sums, in another order


@every
def test_half_precision_is_quantised_in_float32_under_autocast(build: Build) -> None:
    quantizer = trained(build, images()).eval()
    x = images(torch.bfloat16)
    expected = quantizer(x.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(x)
        assert torch.equal(quantizer(x.float()), quantizer(x.float()))
    assert torch.equal(found, expected)


@every
def test_everything_survives_a_state_dict_and_a_copy_bit_for_bit(build: Build) -> None:
    x = images()
    quantizer = trained(build, x)
    fresh = build()
    fresh.load_state_dict(quantizer.state_dict())
    assert fresh.ready
    later = x * 3
    for other in (fresh.train(), copy.deepcopy(quantizer)):
        copied = copy.deepcopy(quantizer)
        assert torch.equal(other(later), copied(later))  # moving observers go on from the same state
        assert torch.equal(other.eval()(x), copied.eval()(x))
        own, theirs = other.state_dict(), copied.state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)


@every
def test_eval_mode_changes_nothing(build: Build) -> None:
    quantizer = trained(build, images()).eval()
    before = copy.deepcopy(quantizer.state_dict())
    key = quantizer.state_key()
    quantizer(images() * 100)
    quantizer((images() * 100).requires_grad_()).sum().backward()
    assert quantizer.state_key() == key
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


@every
def test_empty_tensors_and_single_elements_pass(build: Build) -> None:
    quantizer = trained(build, images()).eval()
    assert quantizer(torch.ones(1, 1, 1, 1)).shape == (1, 1, 1, 1)
    if not build().dynamic:
        assert quantizer(torch.ones(0, 6, 5, 7)).shape == (0, 6, 5, 7)


@every_activation
def test_without_a_range_eval_refuses_by_name(build: Build) -> None:
    quantizer = build().eval()
    quantizer.name = "block.4"
    if quantizer.ready:
        quantizer(images())
        return
    with pytest.raises(StageError, match=r"`block\.4` has no range"):
        quantizer(images())
    with pytest.raises(StageError):
        quantizer.qparams()


@every_activation
def test_the_values_lie_on_the_grid_that_is_told(build: Build) -> None:
    quantizer = trained(build, images()).eval()
    if isinstance(quantizer, DoReFaActivation) and quantizer.variant == "micronet":
        return  # its factor is applied to the input
    x = images() * 3
    grid = quantizer.qparams(x)
    found = quantizer(x)
    level = (found.double() / grid.scale + grid.zero_point).round()
    assert int(level.min()) >= grid.qmin
    assert int(level.max()) <= grid.qmax
    torch.testing.assert_close(((level - grid.zero_point) * grid.scale).float(), found, rtol=1e-6, atol=0)


@every
def test_a_frozen_quantiser_has_nothing_that_trains_or_moves(build: Build) -> None:
    quantizer = trained(build, images())
    quantizer.freeze()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer.train()(images() * 10)
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())


@pytest.mark.parametrize(
    "build",
    [
        lambda bits: AffineQuantizer(bits),
        lambda bits: AffineQuantizer(bits, observer="minmax"),
        lambda bits: LSQuantizer(bits),
        lambda bits: LSQPlusQuantizer(bits),
        lambda bits: PACTQuantizer(bits),
        lambda bits: RistrettoQuantizer(bits),
        lambda bits: DoReFaWeight(bits),
    ],
)
def test_thirty_two_bits_are_off(build: Callable[[int], Quantizer]) -> None:
    x = torch.randn(3)
    assert build(32).eval()(x) is x
    with pytest.raises(StageError, match="no integers"):
        build(32).integer(x)
