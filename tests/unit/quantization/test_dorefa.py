from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.quantizers import DoReFaActivation, DoReFaWeight
from tests.unit.quantization.quantization_nets import bits, tensors

exact_options = st.fixed_dictionaries({"per_channel": st.booleans(), "tanh": st.booleans()})


def int_exact_by_hand(weight: Tensor, k: int, per_channel: bool, tanh: bool) -> np.ndarray:
    w = weight.double().numpy()
    w = np.tanh(w) if tanh else w
    top = 2 ** (k - 1) - 1
    rows = w.reshape(len(w), -1) if per_channel else w.reshape(1, -1)
    out = np.zeros_like(rows)
    for row, result in zip(rows, out, strict=True):
        largest = np.abs(row).max()
        if largest > 0:
            result[:] = np.rint(top * (row / largest)) * largest / top
    return out.reshape(w.shape)


def paper_by_hand(weight: Tensor, k: int) -> np.ndarray:
    u = np.tanh(weight.double().numpy())
    largest = np.abs(u).max()
    if largest == 0:
        return np.zeros_like(u)
    top = 2**k - 1
    return 2 * np.rint(top * (u / (2 * largest) + 0.5)) / top - 1


def within_one_level(found: Tensor, expected: np.ndarray, step: float) -> None:
    """Equal but where float32 and float64 fall on different sides of a tie, which is one level."""
    apart = np.abs(found.double().numpy() - expected)
    rough = np.abs(expected).max() * 1e-6
    assert (apart <= rough + 1e-30).mean() >= 0.9 or apart.size < 10
    assert apart.max() <= step * (1 + 1e-5) + rough + 1e-30


@given(tensors(), bits, exact_options)
def test_int_exact_weights_follow_the_formula(weight: Tensor, k: int, options: dict[str, bool]) -> None:
    found = DoReFaWeight(k, **options)(weight)
    assert torch.isfinite(found).all()
    largest = float((weight.tanh() if options["tanh"] else weight).abs().max())
    within_one_level(found, int_exact_by_hand(weight, k, **options), largest / (2 ** (k - 1) - 1))


@given(tensors(), bits)
def test_paper_weights_follow_the_formula(weight: Tensor, k: int) -> None:
    for variant in ("paper", "micronet"):
        within_one_level(DoReFaWeight(k, variant)(weight), paper_by_hand(weight, k), 2 / (2**k - 1))


@given(tensors(), bits, exact_options, st.sampled_from(["int_exact", "paper", "micronet"]))
def test_integers_times_scale_are_the_quantised_weight_bit_for_bit(
    weight: Tensor, k: int, options: dict[str, bool], variant: str
) -> None:
    quantizer = DoReFaWeight(k, variant, **options)  # type: ignore[arg-type]
    integer = quantizer.integer(weight)
    assert integer.exact
    assert torch.equal(integer.dequantize(), quantizer(weight))
    assert int(integer.values.abs().max()) < 2 ** (integer.bits - 1)


@given(tensors(), bits, st.booleans())
def test_the_gradient_of_int_exact_weights_passes_straight_through(weight: Tensor, k: int, per_channel: bool) -> None:
    weight.requires_grad_()
    upstream = torch.randn_like(weight)
    DoReFaWeight(k, per_channel=per_channel)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@given(tensors(), bits)
def test_the_gradient_of_tanh_weights_is_that_of_tanh(weight: Tensor, k: int) -> None:
    weight.requires_grad_()
    upstream = torch.randn_like(weight)
    DoReFaWeight(k, tanh=True)(weight).backward(upstream)
    torch.testing.assert_close(weight.grad, upstream * (1 - weight.detach().tanh() ** 2))


@given(tensors(), bits)
def test_the_gradient_of_paper_weights_is_that_of_the_smooth_formula(weight: Tensor, k: int) -> None:
    w = weight.double().requires_grad_()
    upstream = torch.randn(weight.shape)
    u = w.tanh().flatten()
    peak = int(u.abs().argmax())
    if not u.any():
        expected, size = torch.zeros_like(w), 1.0
    else:  # without rounding the quantiser is u / max|u|; autograd differentiates that independently
        (expected,) = torch.autograd.grad((u / u[peak].abs()).reshape(w.shape), w, upstream.double())
        size = float(upstream.abs().max() / u[peak].detach().abs())  # of the two terms, which may cancel
    mine = weight.clone().requires_grad_()
    DoReFaWeight(k, "paper")(mine).backward(upstream)
    torch.testing.assert_close(mine.grad.double() / size, expected / size, atol=1e-5, rtol=1e-4)


@given(tensors())
def test_a_second_look_at_a_quantised_weight_changes_nothing(weight: Tensor) -> None:
    quantizer = DoReFaWeight(8, per_channel=True)
    once = quantizer(weight)
    torch.testing.assert_close(quantizer(once), once, rtol=1e-6, atol=0)


def test_zeros_are_zeros_and_zero_is_on_the_exact_grid_but_not_on_the_papers() -> None:
    assert torch.equal(DoReFaWeight(4, "paper")(torch.zeros(3, 2)), torch.zeros(3, 2))
    mixed = torch.tensor([[0.0, 1.0]])
    assert DoReFaWeight(4)(mixed)[0, 0] == 0
    assert DoReFaWeight(4, "paper")(mixed)[0, 0] != 0


def test_eight_bits_of_the_paper_need_nine_and_say_so() -> None:
    weight = torch.randn(4, 4)
    seven, eight = DoReFaWeight(7, "paper").integer(weight), DoReFaWeight(8, "paper").integer(weight)
    assert (seven.bits, eight.bits) == (8, 9)
    assert "does not fit INT8" in eight.why
    assert (eight.values % 2 != 0).all()


@given(tensors(), bits)
def test_paper_activations_follow_the_formula_and_its_open_gradient(x: Tensor, k: int) -> None:
    for variant, gain in (("paper", 1.0), ("micronet", 0.1)):
        top = 2**k - 1
        leaf = x.clone().requires_grad_()
        found = DoReFaActivation(k, variant)(leaf)  # type: ignore[arg-type]
        unit = (np.float32(gain) * x.numpy()).astype(np.float64)
        within_one_level(found.detach(), np.rint(top * unit.clip(0, 1)) / top, 1 / top)
        upstream = torch.randn_like(x)
        found.backward(upstream)
        open_interval = torch.from_numpy((unit > 0) & (unit < 1))
        torch.testing.assert_close(leaf.grad, gain * upstream * open_interval)


def test_halves_round_to_even() -> None:
    quantizer = DoReFaActivation(8, signed=True)
    quantizer.set_clip(127.0)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantizer.eval()(x).tolist() == [0.0, 2.0, 2.0, 0.0, -2.0]
    assert DoReFaActivation(2, "paper")(torch.tensor([0.5])).item() == pytest.approx(2 / 3)
    assert DoReFaWeight(8).integer(torch.tensor([0.5, 1.0])).values.tolist() == [64, 127]


@pytest.mark.parametrize("wrong", [0, 1, 17, 31, 33])
def test_bits_that_do_not_exist_are_refused(wrong: int) -> None:
    with pytest.raises(UsageError, match=f"`bits` is {wrong}"):
        DoReFaWeight(wrong)
    with pytest.raises(UsageError):
        DoReFaActivation(wrong)
    with pytest.raises(UsageError, match="variant"):
        DoReFaWeight(8, "int_exakt")  # type: ignore[arg-type]


def test_thirty_two_bits_are_off() -> None:
    x = torch.randn(3, 3)
    assert DoReFaWeight(32)(x) is x
    assert DoReFaActivation(32)(x) is x
    with pytest.raises(StageError, match="no integers"):
        DoReFaWeight(32).integer(x)


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_weights_that_are_not_numbers_have_no_integers(poison: float) -> None:
    with pytest.raises(StageError, match="inf or nan"):
        DoReFaWeight(8).integer(torch.tensor([1.0, poison]))


@settings(max_examples=20)
@given(bits)
def test_weights_are_quantised_in_float32_whatever_the_autocast(k: int) -> None:
    weight = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = DoReFaWeight(k)(weight)
    assert torch.equal(found, DoReFaWeight(k)(weight))
