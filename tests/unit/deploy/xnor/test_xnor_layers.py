from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcomp.deploy.xnor import XnorConv2d, XnorLinear, accelerate
from mcomp.errors import UsageError
from mcomp.quantization.folded import FoldedQuantConv2d, folded_like
from mcomp.quantization.quantizers.xnor import scale_output
from tests.unit.deploy.xnor.binary_references import (
    PATHS,
    binary,
    exact_sums,
    expected,
    integers,
    needs_loops,
    seeded,
)

pytestmark = [needs_loops, pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")]

CODES = ["pm1", "01"]


def counted(layer: nn.Module, path: str = "auto") -> nn.Module:
    return accelerate(layer, path=path).model  # type: ignore[arg-type]


@st.composite
def convolutions(draw: Any) -> tuple[nn.Conv2d, Tensor]:
    """Any shape of convolution and an input for it; its channels end anywhere in a word."""
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 70)), groups * draw(st.integers(1, 40))
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, top)] * 2)) for top in (4, 3, 2))
    padding = draw(st.one_of(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["valid", "same"])))
    stride = (1, 1) if padding == "same" else stride
    reach = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    size = [draw(st.integers(side, side + 8)) for side in reach]
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    x = torch.randn(draw(st.integers(1, 3)), inputs, *size)
    return layer, x.to(memory_format=torch.channels_last) if draw(st.booleans()) else x


@settings(max_examples=60)
@given(convolutions(), st.sampled_from(CODES))
def test_any_convolution_is_exact_on_every_path(case: tuple[nn.Conv2d, Tensor], codes: str) -> None:
    plain, x = case
    layer = binary(plain, codes)
    wanted = expected(layer, x, codes)
    for path in PATHS:
        with torch.inference_mode():
            assert torch.equal(counted(layer, path)(x), wanted)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("channels", [256, 192, 128])
def test_many_channels_fill_every_register(path: str, channels: int) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(channels, channels, 3, padding=1)), torch.randn(1, channels, 14, 14)
    assert torch.equal(counted(layer, path)(x), expected(layer, x))


def test_the_integers_are_those_of_the_simulated_layer() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(96, 64, 5, padding=2, bias=False)), torch.randn(2, 96, 9, 9)
    with torch.inference_mode():
        simulated, fast = layer(x), counted(layer)(x)
    scale = integers(layer)[1].view(-1, 1, 1)
    assert torch.equal((simulated / scale).round(), exact_sums(layer, x).float())
    assert torch.equal((fast / scale).round(), exact_sums(layer, x).float())


@pytest.mark.parametrize("codes", CODES)
def test_where_the_simulated_layer_rounds_nothing_every_bit_is_its_own(codes: str) -> None:
    torch.manual_seed(0)
    layer = binary(nn.Conv2d(40, 24, 3, padding=1, stride=2), codes)
    folded = folded_like(layer, bias=True)
    assert isinstance(folded, FoldedQuantConv2d)
    folded.weight_int.copy_(integers(layer)[0])
    folded.weight_scale.copy_(torch.exp2(torch.randint(-6, 3, (24,), generator=seeded(1)).float()))
    folded.bias.data.copy_(torch.randint(-8, 8, (24,), generator=seeded(2)).float() / 4)
    x = torch.randn(3, 40, 11, 11)
    with torch.inference_mode():
        assert torch.equal(counted(folded)(x), folded(x))


def test_in_float64_the_simulated_layer_rounds_to_the_same_bits() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(192, 32, 3, padding=1, bias=False)), torch.randn(1, 192, 8, 8)
    values, scale = integers(layer)
    exact = nn.functional.conv2d(
        torch.where(x >= 0, 1.0, -1.0).double(), values * scale.double().view(-1, 1, 1, 1), None, 1, 1
    )
    assert torch.equal(counted(layer)(x), exact.float())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_borders_than_zeros_are_padded_with_signs(mode: Any) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(33, 17, 3, padding=1, padding_mode=mode)), torch.randn(2, 33, 6, 7)
    assert torch.equal(counted(layer)(x), expected(layer, x))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("padding", [0, 2, "same"])
def test_a_convolution_of_rows_is_exact(codes: str, padding: Any) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv1d(20, 18, 4, padding=padding, groups=2), codes), torch.randn(3, 20, 15)
    assert torch.equal(counted(layer)(x), expected(layer, x, codes))


@pytest.mark.parametrize("shape", [(5,), (1,), (2, 3), ()])
@pytest.mark.parametrize("path", PATHS)
def test_a_linear_layer_is_exact_for_any_leading_shape(shape: tuple[int, ...], path: str) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Linear(75, 37)), torch.randn(*shape, 75)
    assert torch.equal(counted(layer, path)(x), expected(layer, x))


def test_a_single_image_needs_no_batch() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(8, 8, 3)), torch.randn(8, 5, 5)
    assert torch.equal(counted(layer)(x), expected(layer, x[None])[0])


def test_no_image_makes_none() -> None:
    assert counted(binary(nn.Conv2d(8, 6, 3)))(torch.empty(0, 8, 5, 5)).shape == (0, 6, 3, 3)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_stays(form: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(32, 48, 3, padding=1)), torch.randn(2, 32, 6, 6).to(memory_format=form)
    output = counted(layer)(x)
    assert output.is_contiguous(memory_format=form)
    assert torch.equal(output, expected(layer, x))


@pytest.mark.parametrize("groups", [1, 4])
def test_the_input_scale_of_xnor_net_multiplies_the_exact_sums(groups: int) -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(16, 12, 3, padding=1, groups=groups), input_scale=True), torch.randn(2, 16, 7, 7)
    output = exact_sums(layer, x).float() * integers(layer)[1].view(-1, 1, 1)
    with torch.inference_mode():
        assert torch.equal(counted(layer)(x), scale_output(output, layer.input_scale(x), layer.bias, 2))


def test_a_filter_of_zeros_gives_its_bias() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 3, 3, padding=1)
    plain.weight.data[1] = 0
    layer, x = binary(plain), torch.randn(1, 6, 4, 4)
    assert (counted(layer)(x)[:, 1] == layer.bias[1]).all()
    assert torch.equal(counted(layer)(x), expected(layer, x))


def test_the_number_of_threads_changes_no_bit() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(64, 64, 3, padding=1)), torch.randn(4, 64, 20, 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(counted(layer)(x), expected(layer, x))
    finally:
        torch.set_num_threads(before)


def test_sizes_may_change_from_call_to_call() -> None:
    torch.manual_seed(0)
    layer = binary(nn.Conv2d(9, 5, 3, padding=1))
    fast = counted(layer)
    for side in [*range(3, 15), 4]:
        x = torch.randn(1, 9, side, side + 1)
        assert torch.equal(fast(x), expected(layer, x))


def test_copies_and_pickles_compute_the_same() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Conv2d(9, 5, 3)), torch.randn(1, 9, 6, 6)
    fast = counted(layer)
    wanted = fast(x)
    assert torch.equal(copy.deepcopy(fast)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(fast))(x), wanted)


def test_other_weights_loaded_later_are_the_ones_that_count() -> None:
    torch.manual_seed(0)
    one, other = (binary(nn.Conv2d(9, 5, 3, padding=1)) for _ in range(2))
    fast, x = counted(one), torch.randn(1, 9, 6, 6)
    fast(x)
    fast.load_state_dict(counted(other).state_dict())
    assert torch.equal(fast(x), expected(other, x))


def test_an_accelerated_layer_holds_about_a_bit_per_weight() -> None:
    fast = counted(binary(nn.Conv2d(256, 256, 3, bias=False)))
    assert isinstance(fast, XnorConv2d)
    assert fast.filters.numel() * 4 == 256 * 256 * 9 / 8


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.zeros(1, 8, 4, 4, dtype=torch.float64), "float64"),
        (torch.zeros(1, 8, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(1, 8, 4, 4, device="meta"), "on `meta`"),
        (torch.zeros(1, 8, 4, 4, requires_grad=True), "gradient"),
    ],
)
def test_what_the_loops_cannot_read_is_refused(x: Tensor, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        counted(binary(nn.Conv2d(8, 8, 3)))(x)
    assert caught.value.code == "MC621"


def test_nan_counts_as_a_negative_number() -> None:
    torch.manual_seed(0)
    layer, x = binary(nn.Linear(40, 8)), torch.randn(2, 40)
    broken = x.clone()
    broken[0, 3], x[0, 3] = torch.nan, -1.0
    assert torch.equal(counted(layer)(broken), counted(layer)(x))


def test_a_linear_layer_says_what_it_is() -> None:
    fast = counted(binary(nn.Linear(40, 8)))
    assert isinstance(fast, XnorLinear)
    assert repr(fast).startswith("XnorLinear(\n  40, 8, reads floats, gives floats")


@pytest.mark.parametrize("move", [lambda model: model.double(), lambda model: model.to("meta")])
def test_a_model_that_was_moved_or_converted_is_refused(move: Any) -> None:
    fast = move(counted(binary(nn.Conv2d(8, 8, 3))))
    with pytest.raises(UsageError, match="of a layer that counts bits is a") as caught:
        fast(torch.zeros(1, 8, 4, 4))
    assert caught.value.code == "MC621"


@pytest.mark.parametrize("channels", [33, 40, 63, 65, 128])
def test_other_channels_in_as_many_words_are_refused(channels: int) -> None:
    fast = counted(binary(nn.Conv2d(64, 8, 3)))
    with pytest.raises(UsageError, match=f"given {channels} channels, and has 64") as caught:
        fast(torch.zeros(1, channels, 4, 4))
    assert caught.value.code == "MC621"


@pytest.mark.parametrize("features", [32, 40, 96, 128])
def test_other_features_of_a_linear_layer_are_refused(features: int) -> None:
    with pytest.raises(UsageError, match=f"given {features} channels, and has 64") as caught:
        counted(binary(nn.Linear(64, 8)))(torch.zeros(2, features))
    assert caught.value.code == "MC621"


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 3, dilation=2), nn.Conv2d(4, 8, (5, 1)), nn.Conv1d(4, 8, 5)])
def test_an_image_that_no_window_fits_on_is_refused(layer: nn.Module) -> None:
    x = torch.zeros(1, 4, 4) if isinstance(layer, nn.Conv1d) else torch.zeros(1, 4, 4, 4)
    with pytest.raises(UsageError, match="is too small") as caught:
        counted(binary(layer))(x)
    assert caught.value.code == "MC621"
    assert "larger images" in caught.value.hint


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_smallest_image_that_a_window_fits_on_is_computed(padding: int) -> None:
    layer = binary(nn.Conv2d(4, 8, 5, padding=padding))
    x = torch.randn(1, 4, 5 - 2 * padding, 5 - 2 * padding, generator=seeded(0))
    assert torch.equal(counted(layer)(x), expected(layer, x))
