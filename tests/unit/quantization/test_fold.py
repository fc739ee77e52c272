from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcomp import surgery
from mcomp.errors import StageError
from mcomp.quantization import FoldedQuantConv2d, FoldedQuantLinear, fold, fold_batch_norms, quantize
from mcomp.quantization.fold_arithmetic import materialise
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.layers import QuantConv2d
from mcomp.quantization.quantizers import DoReFaWeight
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm


def quantised(model: nn.Module, **options: Any) -> nn.Module:
    return quantize(model, (batch(),), calibration=[batch(16)], **options)


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize("build", [chain, Residual])
def test_a_float_model_computes_the_same_without_its_batch_norms(build: Any) -> None:
    model = warm(build())
    result = fold_batch_norms(model, (batch(),))
    assert result.count == 3
    assert result.error < 1e-5
    assert not has_batch_norm(result.model)
    assert has_batch_norm(model)
    torch.testing.assert_close(result.model(batch(seed=5)), model(batch(seed=5)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"per_channel": True}, {"w_bits": 4, "a_bits": 4}, {"variant": "paper", "w_bits": 5}]
)
def test_a_quantised_model_becomes_integers_and_computes_the_same(options: dict[str, Any]) -> None:
    model = quantised(warm(Residual()), **options)
    result = fold_batch_norms(model, (batch(),))
    assert result.count == 3
    assert result.error < 1e-5
    assert result.sign_flips > 0
    assert isinstance(result.model.get_submodule("first"), FoldedQuantConv2d)
    assert isinstance(result.model.get_submodule("head"), FoldedQuantLinear)
    assert result.model.get_submodule("first").weight_int.dtype == torch.int8
    assert result.model.get_submodule("first").weight_buffers == ("weight_int",)
    steps = (result.model(batch(seed=5)) - model(batch(seed=5))).abs().max() / model(batch(seed=5)).abs().max()
    assert steps < (0.02 if options.get("a_bits", 8) == 8 else 0.3)


norms = st.lists(
    st.tuples(
        st.sampled_from([-1.5, -1e-9, 0.0, 1e-30, 1e-5, 0.7, 20.0]),  # gamma
        st.floats(-3, 3, width=32),  # beta
        st.floats(-3, 3, width=32),  # mean
        st.sampled_from([0.0, 1e-12, 0.3, 900.0]),  # variance
    ),
    min_size=1,
    max_size=6,
)


@given(norms, st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 1000))
@settings(max_examples=60)
def test_integers_change_at_most_in_sign_and_dead_channels_are_their_bias(
    channels: list[tuple[float, float, float, float]], k: int, per_channel: bool, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = QuantConv2d(
        2, len(channels), 3, bias=bias, weight_quantizer=DoReFaWeight(k, per_channel=per_channel)
    ).eval()
    norm = nn.BatchNorm2d(len(channels)).eval()
    gamma, beta, mean, variance = torch.tensor(channels).unbind(1)
    for target, value in (
        (norm.weight, gamma),
        (norm.bias, beta),
        (norm.running_mean, mean),
        (norm.running_var, variance),
    ):
        target.data.copy_(value)
    before = layer.integer_weight()
    made, flips, rounded = materialise(layer, norm, "conv")
    after = made.integer_weight()
    assert (after.scale >= MIN_SCALE).all()
    factor = gamma.double() / (variance.double() + norm.eps).sqrt()
    folded_scale = before.scale.double().expand(len(channels)) * factor.abs()
    assert flips == int((gamma < 0).sum())
    assert rounded == int(((folded_scale < MIN_SCALE) & (folded_scale > 0)).sum())
    for channel, scale in enumerate(folded_scale.tolist()):
        old, new = before.values[channel], after.values[channel]
        if gamma[channel] == 0:
            assert not new.any()
            assert after.scale[channel] == 1
        elif scale >= MIN_SCALE:
            assert torch.equal(new, old if gamma[channel] > 0 else -old)
    x = torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        expected, found = norm(layer(x)), made(x)
    rounding = 9 * 2 * float(x.abs().max()) * MIN_SCALE  # of channels whose scale is below the smallest
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max() + rounding + 1e-6


def test_wide_integers_are_stored_wide() -> None:
    for k, dtype in ((2, torch.int8), (8, torch.int8), (9, torch.int16), (16, torch.int16)):
        result = fold_batch_norms(quantised(warm(chain()), w_bits=k), (batch(),))
        assert result.model.get_submodule("3").weight_int.dtype == dtype
    paper = fold_batch_norms(quantised(warm(chain()), w_bits=16, variant="paper"), (batch(),))
    assert paper.model.get_submodule("3").weight_int.dtype == torch.int32


def rebuilt(model: nn.Module, log: list[surgery.Entry]) -> nn.Module:
    for entry in log:
        model = surgery.replay(model, entry, (batch(),))
    return model


@pytest.mark.parametrize("options", [{}, {"variant": "micronet"}, {"skip": ["head"], "per_channel": True}])
def test_replaying_the_log_on_a_fresh_build_gives_the_same_bits(options: dict[str, Any]) -> None:
    result = fold_batch_norms(quantised(warm(Residual()), **options), (batch(),))
    log = surgery.provenance(result.model).log
    assert [entry["op"] for entry in log] == ["quantize", "fuse"]
    fresh = rebuilt(Residual(), copy.deepcopy(log))
    fresh.load_state_dict(result.model.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(batch(seed=3)), result.model.eval()(batch(seed=3)))
    assert surgery.provenance(fresh).log == log


def test_replaying_a_float_fold_gives_the_same_bits() -> None:
    result = fold_batch_norms(warm(Residual()), (batch(),))
    fresh = rebuilt(Residual(), surgery.provenance(result.model).log)
    fresh.load_state_dict(result.model.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(batch()), result.model(batch()))


def test_training_goes_on_from_latent_weights_before_the_fold_only() -> None:
    model = quantised(warm(Residual()))
    assert model.get_parameter("first.weight").requires_grad
    folded = fold_batch_norms(model, (batch(),)).model
    assert "first.weight" not in dict(folded.named_parameters())


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Linear(4, 6), nn.BatchNorm1d(6)], (4,)),
        ([nn.Linear(4, 6, bias=False), nn.Identity(), nn.BatchNorm1d(6, affine=False)], (4,)),
        ([nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)], (4, 9)),
        ([nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6)], (2, 4, 4, 4)),
        ([nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)], (4, 5, 5)),
        ([nn.ConvTranspose2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)], (4, 5, 5)),
        ([nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (4, 5, 5)),
        ([nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)], (4, 5, 5)),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], (4, 5, 5)),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False)], (4, 5, 5)),
        ([nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6)], (4,)),
    ],
)
def test_every_exact_pair_folds(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    model = warm(nn.Sequential(*layers), shape)
    result = fold_batch_norms(model, (batch(shape=shape),))
    assert result.left == {}
    assert result.error < 1e-5
    assert not has_batch_norm(result.model)
    fresh = rebuilt(nn.Sequential(*copy.deepcopy(layers)), surgery.provenance(result.model).log)
    fresh.load_state_dict(result.model.state_dict(), strict=True)


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.b(self.norm(self.a(x))))


@pytest.mark.parametrize(
    ("model", "name", "why"),
    [
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), "0", "pads its output with zeros"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), "2", "no convolution or linear layer"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "1", "no running statistics"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 3)), "0", "transposed"),
        (TwoReaders(), "norm", "read by 2 operations"),
        (SharedNorm(), "norm", "called 2 times"),
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays_and_is_named(model: nn.Module, name: str, why: str) -> None:
    result = fold_batch_norms(warm(model), (batch(),))
    assert why in result.left[name]
    assert result.count == 0
    assert result.error == 0


def test_a_batch_norm_in_front_of_integers_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    result = fold_batch_norms(quantised(warm(model), a_bits=32), (batch(),))
    assert "no scale per input channel" in result.left["2"]


def test_tied_weights_are_not_folded_twice() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[2].weight = model[0].weight
    result = fold_batch_norms(warm(model), (batch(),))
    assert "shares its weight" in result.left["1"]
    assert result.error == 0


def test_a_model_without_batch_norms_comes_back_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    result = fold_batch_norms(model, (batch(),))
    assert (result.count, result.error, result.worst_layer) == (0, 0.0, "")


def test_a_broken_batch_norm_is_refused_by_name() -> None:
    model = warm(chain())
    model[1].running_var.fill_(float("nan"))
    with pytest.raises(StageError, match="`0` holds inf or nan"):
        fold_batch_norms(model, (batch(),))


def test_a_range_that_is_not_known_is_asked_for() -> None:
    with pytest.raises(StageError, match="no range yet"):
        fold_batch_norms(quantize(warm(chain()), (batch(),)), (batch(),))


def test_the_worst_layer_is_named() -> None:
    model = warm(Residual())
    with torch.no_grad():
        model.get_parameter("stem.bias").add_(1e4)  # far above the spread: float32 cancels
        model.get_buffer("stem_norm.running_mean").add_(1e4)
    assert fold_batch_norms(model, (batch(),)).worst_layer == "stem"


@pytest.mark.parametrize("broken", [0, 1])
def test_a_layer_that_gives_nan_is_the_worst_wherever_it_stands(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([math.nan if place == broken else 1e-7 for place in range(2)])
    monkeypatch.setattr(fold._Probe, "layer_error", lambda *_: next(errors))
    model = warm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)))
    assert fold_batch_norms(model, (batch(),)).worst_layer == ("0", "2")[broken]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["iao", "lsq", "dorefa", "pact", "ristretto", "wbwtab"])
def test_a_network_of_another_type_folds_to_integers_and_computes_in_that_type(scheme: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 64, 3)).to(dtype).eval()
    x = torch.randn(4, 3, 8, 8).to(dtype)
    quantised = quantize(model, (x,), scheme=scheme, calibration=[x])
    fused = fold_batch_norms(quantised, (x,))
    assert fused.model(x).dtype == dtype
    # what one rounding of a product and one of a sum may differ, relative to the largest output
    assert fused.error <= (1e-6 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps)


class Functional(nn.Module):
    """A convolution and a product that functions compute, each with a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(4)))
        self.matrix = nn.Parameter(torch.randn(5, 8, generator=torch.Generator().manual_seed(5)))
        self.norm, self.last = nn.BatchNorm2d(8), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(nn.functional.conv2d(x, self.kernel, padding=1)).relu()
        return self.last(nn.functional.linear(x.mean((2, 3)), self.matrix))


@pytest.mark.parametrize("prepare", [lambda model: model, lambda model: quantised(model, scheme="iao")])
def test_a_batch_norm_behind_a_function_stays_and_the_function_is_named(prepare: Any) -> None:
    model = prepare(warm(Functional()))
    result = fold_batch_norms(model, (batch(),))
    assert result.count == 0
    assert "the function `conv2d` stands before it" in result.left["norm"]
    assert "the function `linear` stands before it" in result.left["last"]
    torch.testing.assert_close(result.model(batch(seed=5)), model(batch(seed=5)))
