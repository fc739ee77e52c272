from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy.xnor import LayerRow, accelerate, thresholds
from mcomp.deploy.xnor.sign_steps import SignChain, SignMaxPool2d, SignPacking
from mcomp.errors import StageError, UsageError
from mcomp.models.network_in_network import nin, nin_gc
from mcomp.quantization import QuantConv2d, QuantConv3d, fold_batch_norms, quantize
from mcomp.quantization.quantizers import BinaryActivation, DoReFaWeight
from tests.unit.deploy.xnor.binary_references import PATHS, binary, exact_sums, expected, needs_loops, seeded

pytestmark = needs_loops


def shaken(model: nn.Module) -> nn.Module:
    """Batch norms with factors of either sign, and some of 0, and statistics of their own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.weight.data.normal_()
            module.weight.data[::7] = 0
            module.bias.data.normal_()
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def binarised(model: nn.Module, x: Tensor, **options: Any) -> nn.Module:
    return quantize(shaken(model), (x,), scheme="wbwtab", **options).eval()


def rows(model: nn.Module) -> dict[str, LayerRow]:
    return {row.name: row for row in accelerate(model).layers}


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


class Exact(nn.Module):
    """A binary layer that computes its product in float64 and rounds as one that counts bits does."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.found = layer, layer.integer_weight()

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        sums = F.conv2d(
            x.double(), self.found.values.double(), None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        output = sums.float() * self.found.scale.view(-1, 1, 1)
        return output if layer.bias is None else output + layer.bias.view(-1, 1, 1)


def exactly(model: nn.Module) -> nn.Module:
    """The simulated network without rounding inside the sums of its binary layers."""
    made = copy.deepcopy(model)
    for name, module in list(made.named_modules()):
        if callable(getattr(module, "integer_weight", None)):
            made.set_submodule(name, Exact(module))
    return made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("folded", [False, True])
def test_a_whole_network_in_network_is_the_simulated_one_bit_for_bit(path: Any, folded: bool) -> None:
    x = torch.randn(3, 3, 16, 16, generator=seeded(0))
    model = binarised(nin(width=0.5), x)
    model = fold_batch_norms(model, (x,)).model if folded else model
    with torch.inference_mode():
        assert torch.equal(accelerate(model, path=path).model(x), exactly(model)(x))
        assert close(accelerate(model, path=path).model(x), model(x))


def test_a_binary_network_in_network_stays_in_bits_between_its_layers() -> None:
    x = torch.randn(2, 3, 16, 16, generator=seeded(0))
    fast = accelerate(binarised(nin(width=0.5), x))
    table = {row.name.removeprefix("features.").removesuffix(".conv"): row for row in fast.layers}
    assert [name for name, row in table.items() if row.reads == "signs"] == ["1", "2", "4", "5", "6", "8", "9"]
    # an average pool and the float classifier need numbers
    assert [name for name, row in table.items() if row.popcount and row.gives == "floats"] == ["6", "9"]
    chains = [module for module in fast.model.modules() if isinstance(module, SignChain)]
    assert [len(chain.steps) for chain in chains] == [7, 3]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fast.model.modules()) == 3


def test_groups_and_shuffles_are_computed_between_floats() -> None:
    x = torch.randn(2, 3, 16, 16, generator=seeded(0))
    model = binarised(nin_gc(width=0.5), x)
    fast = accelerate(model)
    assert sum(row.popcount for row in fast.layers) == 7
    with torch.inference_mode():
        assert torch.equal(fast.model(x), exactly(model)(x))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("channels", [12, 40, 64])
def test_groups_that_end_inside_a_word_stay_in_bits(groups: int, channels: int) -> None:
    x = torch.randn(2, 3, 9, 10, generator=seeded(1))
    model = binarised(nn.Sequential(*_chain(groups, channels)), x)
    fast = accelerate(model)
    assert [row.reads for row in fast.layers if row.popcount] == ["signs"] * 3
    assert any(isinstance(module, SignMaxPool2d) for module in fast.model.modules())
    with torch.inference_mode():
        assert torch.equal(fast.model(x), exactly(model)(x))


def _chain(groups: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(channels, 2 * channels, 3, padding=2, dilation=2, groups=groups),
        nn.BatchNorm2d(2 * channels),
        nn.Identity(),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(2 * channels, 12, 1, groups=groups),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(12, 4),
    ]


class Shortcut(nn.Module):
    """A sum and a convolution read the same signs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.inner, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head((x + self.inner(x)).mean((2, 3)))


def test_signs_that_a_sum_reads_too_are_floats() -> None:
    x = torch.randn(2, 3, 8, 8, generator=seeded(1))
    model = binarised(Shortcut(), x)
    fast = accelerate(model)
    assert rows(model)["inner"] == LayerRow("inner", True, "floats", "floats")
    with torch.inference_mode():
        assert torch.equal(fast.model(x), exactly(model)(x))


def test_codes_of_zero_and_one_stay_in_bits_too() -> None:
    x = torch.randn(2, 3, 9, 10, generator=seeded(1))
    model = binarised(nn.Sequential(*_chain(2, 24)), x, codes="01")
    fast = accelerate(model)
    assert [row.reads for row in fast.layers if row.popcount] == ["signs"] * 3
    with torch.inference_mode():
        assert torch.equal(fast.model(x), exactly(model)(x))


def by_hand(codes: str) -> nn.Sequential:
    layers = [
        binary(nn.Conv2d(8, 16, 3), codes),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        binary(nn.Conv2d(16, 24, 3, padding=1), codes),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        binary(nn.Conv2d(24, 4, 1), codes),
    ]
    return nn.Sequential(*layers[:5], *layers[6:]).eval()  # type: ignore[return-value]


class Branching(nn.Module):
    """No graph can hold its forward pass."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if float(x.sum()) == float(x.sum()) else x


@pytest.mark.parametrize("codes", ["pm1", "01"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_by_hand_count_bits_with_or_without_a_graph(codes: str, wrapped: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = shaken(by_hand(codes))
    x = torch.randn(2, 8, 13, 13, generator=seeded(7))
    wanted = x
    for module in model:  # type: ignore[attr-defined]
        wanted = expected(module, wanted, codes) if isinstance(module, QuantConv2d) else module(wanted)
    fast = accelerate(Branching(model) if wrapped else model)  # type: ignore[arg-type]
    assert [row.popcount for row in fast.layers] == [True, True, True]
    # the first one's pool stands in front of the sign, and so is one of numbers
    gives = ["floats"] * 3 if wrapped else ["floats", "signs", "floats"]
    assert [row.gives for row in fast.layers] == gives
    assert bool(fast.note) == wrapped
    with torch.inference_mode():
        assert torch.equal(fast.model(x), wanted)


def test_the_table_says_why_a_layer_does_not_count_bits() -> None:
    x = torch.randn(2, 3, 9, 10, generator=seeded(1))
    table = rows(binarised(nn.Sequential(*_chain(1, 16)), x, overrides={"3": {"w_bits": 2}}))
    assert table["0"].why == table["17"].why == "it is a float layer"
    assert table["3"].why == "its weight is not binary (ternary: -1, 0 and +1, one scale per filter)"
    assert table["7"].popcount
    floats = binarised(nn.Sequential(*_chain(1, 16)), x, overrides={"3": {"a_bits": 32}})
    assert "its input is not binary (it comes from `" in rows(floats)["3"].why
    by_hand: dict[str, Any] = {"scheme": "wbwtab", "w_bits": 1, "a_bits": 1}
    floating = QuantConv2d(4, 4, 1, weight_quantizer=DoReFaWeight(32), input_quantizer=BinaryActivation())
    others = [QuantConv3d(4, 4, 1, **by_hand), floating]
    table = rows(nn.Sequential(binary(nn.Conv2d(3, 4, 1)), *others))
    assert table["1"].why == "there are no loops for `QuantConv3d`"
    assert table["2"].why == "its weight is float"


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU())])
def test_a_model_without_a_binary_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(StageError, match="no layer of the model has a binary weight") as caught:
        accelerate(model)
    assert caught.value.code == "MC470"


def test_the_model_that_came_in_is_left_as_it_was() -> None:
    x = torch.randn(2, 3, 16, 16, generator=seeded(0))
    model = binarised(nin(width=0.5), x).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = accelerate(model)
    assert model.training
    assert not fast.model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_batch_norm_that_measures_each_batch_is_computed() -> None:
    x = torch.randn(2, 3, 9, 10, generator=seeded(1))
    model = nn.Sequential(*_chain(1, 16))
    model[4] = nn.BatchNorm2d(16, track_running_stats=False)
    quantised = quantize(model.eval(), (x,), scheme="wbwtab").eval()
    assert rows(quantised)["3"].gives == "floats"
    with torch.inference_mode():
        assert torch.equal(accelerate(quantised).model(x), exactly(quantised)(x))


def test_a_batch_norm_of_nan_is_computed_and_not_compared() -> None:
    x = torch.randn(2, 3, 9, 10, generator=seeded(1))
    model = binarised(nn.Sequential(*_chain(1, 16)), x)
    model.get_submodule("4").bias.data[3] = torch.nan  # type: ignore[union-attr, operator]
    assert rows(model)["3"].gives == "floats"


@settings(max_examples=30)
@given(st.integers(0, 999), st.booleans())
def test_the_threshold_of_a_sum_says_what_the_batch_norm_says_of_every_sum(seed: int, biased: bool) -> None:
    generator, channels, most = seeded(seed), 24, 75
    norm = nn.BatchNorm2d(channels).eval()
    norm.weight.data = torch.randn(channels, generator=generator)
    norm.weight.data[0] = 0
    norm.bias.data = torch.randn(channels, generator=generator)
    norm.running_mean = torch.randn(channels, generator=generator)
    scale = torch.rand(channels, generator=generator)
    bias = torch.randn(channels, generator=generator) if biased else None
    found = thresholds.of_sums([norm, nn.ReLU6()], scale, bias, most)
    alone = thresholds.of_sums([norm], scale, bias, most)
    assert found is not None
    assert alone is not None
    sums = torch.arange(-most, most + 1).float()[:, None] * scale
    image = (sums if bias is None else sums + bias)[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    with torch.inference_mode():
        wanted = norm(image)[:, :, 0, 0] >= 0
    counted = (torch.arange(-most, most + 1)[:, None] >= alone[0]) != alone[1]
    assert torch.equal(counted, wanted)
    assert ((torch.arange(-most, most + 1)[:, None] >= found[0]) != found[1]).all()  # a ReLU is never below 0


@settings(max_examples=30)
@given(st.integers(0, 999))
def test_the_threshold_of_a_float_is_right_on_both_sides_of_it(seed: int) -> None:
    generator, channels = seeded(seed), 24
    norm = nn.BatchNorm2d(channels).eval()
    norm.weight.data = torch.randn(channels, generator=generator)
    norm.weight.data[0] = 0
    norm.bias.data = torch.randn(channels, generator=generator)
    norm.running_mean = torch.randn(channels, generator=generator)
    found = thresholds.of_floats([norm], channels)
    assert found is not None
    edge, flip = found
    around = [edge, torch.nextafter(edge, torch.tensor(-torch.inf)), torch.randn(channels, generator=generator)]
    for x in around:
        finite = x.isfinite()
        with torch.inference_mode():
            wanted = norm(x.view(1, -1, 1, 1).expand(1, -1, 8, 8).contiguous())[0, :, 0, 0] >= 0
        assert torch.equal(((x >= edge) != flip)[finite], wanted[finite])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (64, 1), (70, 1), (70, 2), (6, 3)])
def test_packed_signs_are_the_bits_that_their_layout_says(
    path: Any, form: torch.memory_format, channels: int, groups: int
) -> None:
    x = torch.randn(2, channels, 13, 11, generator=seeded(3)).to(memory_format=form)
    threshold = torch.randn(channels, generator=seeded(4))
    flip = torch.rand(channels, generator=seeded(5)) > 0.5
    packed = SignPacking(channels, groups, threshold, flip, path)(x).numpy().view(np.uint32)
    bits = np.moveaxis(((x >= threshold.view(-1, 1, 1)) != flip.view(-1, 1, 1)).numpy(), 1, -1)
    each = channels // groups
    words = -(-each // 32)
    wanted = np.zeros((2, 13, 11, groups, words * 32), bool)
    wanted[..., :each] = bits.reshape(2, 13, 11, groups, each)
    assert np.array_equal(packed, np.packbits(wanted, axis=-1, bitorder="little").view(np.uint32).reshape(packed.shape))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_a_pool_of_signs_is_the_pool_of_numbers(kernel: int, stride: int, padding: int, dilation: int) -> None:
    pool = nn.MaxPool2d(kernel, stride, min(padding, kernel // 2), dilation)
    x = torch.randn(2, 37, 9, 8, generator=seeded(kernel))
    pack = SignPacking(37)
    assert torch.equal(SignMaxPool2d(pool)(pack(x)), pack(pool(torch.where(x >= 0, 1.0, -1.0))))


def test_a_path_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no path `sse`") as caught:
        accelerate(binary(nn.Conv2d(3, 4, 1)), path="sse")  # type: ignore[arg-type]
    assert caught.value.code == "MC621"


def test_packing_reads_no_memory_beyond_its_thresholds() -> None:
    memory = torch.full((64,), -1e30)
    for threshold, flip in ((memory[:1], None), (None, torch.zeros(1, dtype=torch.bool))):
        with pytest.raises(UsageError, match="given 32 channels, and has 1"):
            SignPacking(1, 1, threshold, flip)(torch.full((1, 32, 1, 1), -5.0))


@pytest.mark.parametrize("wrong", [{"threshold": torch.zeros(1)}, {"flip": torch.zeros(70, dtype=torch.bool)}])
def test_the_loops_themselves_refuse_thresholds_of_another_size(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(RuntimeError, match="a threshold per channel, a flip per word"):
        SignPacking(32, 1, **wrong)(torch.zeros(1, 32, 1, 1))


@pytest.mark.parametrize("name", ["lane_scale", "lane_bias", "taps"])
def test_the_loops_themselves_refuse_numbers_of_other_filters(name: str) -> None:
    layer = accelerate(binary(nn.Conv2d(8, 20, 3))).model
    setattr(layer, name, getattr(layer, name)[:1].clone())
    with pytest.raises(RuntimeError, match="lane"):
        layer(torch.zeros(1, 8, 4, 4))


def behind_a_norm() -> nn.Module:
    layers = [nn.BatchNorm2d(33), nn.Hardtanh(), nn.Conv2d(33, 16, 3), nn.Hardtanh(), nn.Conv2d(16, 4, 1)]
    ends = {"first_layer_float": False, "last_layer_float": False}
    x = torch.randn(1, 33, 8, 8, generator=seeded(0))
    return accelerate(binarised(nn.Sequential(*layers), x, **ends)).model


@pytest.mark.parametrize("channels", [1, 32, 34, 64])
def test_a_chain_behind_a_batch_norm_refuses_other_channels(channels: int) -> None:
    fast = behind_a_norm()
    assert any(isinstance(module, SignChain) for module in fast.modules())
    with pytest.raises(UsageError, match=f"given {channels} channels, and has 33") as caught:
        fast(torch.zeros(1, channels, 8, 8))
    assert caught.value.code == "MC621"


def test_a_chain_refuses_a_single_image_and_one_that_is_too_small() -> None:
    fast = behind_a_norm()
    for x, what, fix in (
        (torch.zeros(33, 8, 8), "of 3 dimensions", r"image\[None\]"),
        (torch.zeros(1, 33, 2, 8), "image of 2 x 8 is too small", "larger images"),
    ):
        with pytest.raises(UsageError, match=what) as caught:
            fast(x)
        assert caught.value.code == "MC621"
        assert re.search(fix, caught.value.hint)


def test_a_pool_of_signs_refuses_an_image_that_its_window_does_not_fit_on() -> None:
    packed = SignPacking(5)(torch.zeros(1, 5, 2, 2))
    assert SignMaxPool2d(nn.MaxPool2d(2))(packed).shape == (1, 1, 1, 1)
    with pytest.raises(UsageError, match="is too small") as caught:
        SignMaxPool2d(nn.MaxPool2d(3))(packed)
    assert caught.value.code == "MC621"


def test_a_sum_of_exactly_zero_is_a_positive_sign_whatever_the_simulation_rounds_it_to() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(binary(nn.Conv2d(64, 32, 3, bias=False)), binary(nn.Conv2d(32, 8, 1)))
    x = torch.randn(4, 64, 12, 12, generator=seeded(0))
    sums = exact_sums(model[0], x)
    ties = sums == 0
    assert ties.any()
    with torch.inference_mode():
        simulated, fast = model[0](x), accelerate(model[0]).model(x)
        assert torch.equal(accelerate(model).model(x), expected(model[1], sums.float()))
    assert torch.equal(fast >= 0, sums >= 0)
    assert torch.equal((simulated >= 0)[~ties], (sums >= 0)[~ties])  # without a bias only ties may turn
