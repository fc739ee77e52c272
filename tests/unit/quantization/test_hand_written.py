"""Layers and quantisers that a person writes into a network of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.artifact import load_model, save_model
from mcomp.deploy import OnnxSession, to_onnx
from mcomp.errors import StageError, UsageError
from mcomp.quantization import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantGELU,
    QuantGRU,
    QuantHardswish,
    QuantIdentity,
    QuantLeakyReLU,
    QuantLinear,
    QuantLSTM,
    QuantLSTMCell,
    QuantMultiheadAttention,
    QuantReLU,
    QuantReLU6,
    QuantSiLU,
    calibrate,
    describe,
    fold_batch_norms,
    freeze,
    quantize,
)
from mcomp.quantization.calibration import quantizers as quantisers_of
from mcomp.quantization.quantizers import (
    AffineQuantizer,
    BinaryActivation,
    BinaryWeight,
    DoReFaActivation,
    DoReFaWeight,
    LSQuantizer,
    RistrettoQuantizer,
    TernaryWeight,
)
from mcomp.quantization.schemes import SCHEMES

#: Every scheme, and the options of one that differ in kind.
WRITTEN: dict[str, dict[str, Any]] = {
    "iao": {"scheme": "iao"},
    "iao asymmetric": {"scheme": "iao", "symmetric_activations": False},
    "iao 4": {"scheme": "iao", "w_bits": 4},
    "dorefa": {"scheme": "dorefa"},
    "dorefa paper 4": {"scheme": "dorefa", "variant": "paper", "w_bits": 4},
    "dorefa micronet 5": {"scheme": "dorefa", "variant": "micronet", "w_bits": 5},
    "lsq": {"scheme": "lsq"},
    "lsq_plus": {"scheme": "lsq_plus"},
    "pact": {"scheme": "pact", "per_channel": True},
    "ristretto": {"scheme": "ristretto", "overflow": "saturate"},
    "wbwtab": {"scheme": "wbwtab"},
    "wbwtab scaled": {"scheme": "wbwtab", "input_scale": True, "a_bits": 1},
    "ternary beside lsq": {"scheme": "wbwtab", "a_scheme": "lsq", "w_bits": 2},
}
written = pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)


class LeNet(nn.Module):
    """A quantiser at the door of one layer, one behind a ReLU that the next layer shares, and a sum."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        behind = {key: value for key, value in options.items() if key not in ("w_bits", "per_channel", "a_scheme")}
        behind["scheme"] = options.get("a_scheme", options["scheme"])
        self.first = QuantConv2d(1, 6, 5, padding=2, **options)
        self.norm = nn.BatchNorm2d(6)
        self.relu = QuantReLU(**behind)
        inside = {"a_bits": 32, **options}
        self.second = QuantConv2d(6, 6, 3, padding=1, padding_mode="reflect", bias=False, **inside)
        self.second_norm = nn.BatchNorm2d(6)
        self.sum = QuantIdentity(**behind)
        self.pool = nn.MaxPool2d(2)
        self.head = QuantLinear(6 * 16, 5, **inside)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = self.sum(self.second_norm(self.second(x)) + x)
        return self.head(torch.flatten(self.pool(x), 1))


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(options: dict[str, Any], steps: int = 4) -> LeNet:
    torch.manual_seed(0)
    model = LeNet(options)
    optimiser = torch.optim.SGD(model.parameters(), 0.02)
    labels = torch.arange(8) % 5
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.train()(images()), labels).backward()
        optimiser.step()
    return model.eval()


@written
def test_it_trains_from_scratch_and_every_parameter_moves(options: dict[str, Any]) -> None:
    fresh, model = trained(options, 1), trained(options, 12)
    for (name, before), after in zip(fresh.named_parameters(), model.parameters(), strict=True):
        assert after.isfinite().all()
        # a batch norm takes that bias away, and no batch but the one that set this clip is ever seen
        still = ("first.bias", "first.input_quantizer.alpha")
        assert name in still or not torch.equal(before, after), name
    labels = torch.arange(8) % 5
    losses = [nn.functional.cross_entropy(each.train()(images()), labels).item() for each in (fresh, model)]
    assert losses[1] < losses[0]


@written
def test_the_file_computes_what_was_trained(tmp_path: Path, options: dict[str, Any]) -> None:
    model = freeze(trained(options))
    lowering = to_onnx(model, (images(2),), tmp_path / "m.onnx")
    assert lowering.exact, lowering.notes
    rows = {(row.kind, row.name) for row in lowering.tensors}
    assert {("weight", f"{name}.weight") for name in ("first", "second", "head")} <= rows
    assert {name for kind, name in rows if kind == "activation"} == set(quantisers_of(model))
    found = torch.as_tensor(OnnxSession(lowering.path, simulate=True).predict(images()))
    expected = model(images()).detach()
    # a sum in another order may move single activations to the next level
    assert float((found - expected).norm() / expected.norm()) < 0.05


@written
def test_batch_norms_fold_and_the_file_of_it_loads(tmp_path: Path, options: dict[str, Any]) -> None:
    model = trained(options)
    folded = fold_batch_norms(model, (images(),))
    assert folded.count == 2
    assert folded.error < 1e-4
    for name, each in (("latent", model), ("folded", folded.model)):
        save_model(each, tmp_path / name, (images(),))
        again = load_model(tmp_path / name, model=LeNet(options))
        assert torch.equal(again(images()), each(images()))


@written
def test_state_dict_and_copies_keep_every_bit(options: dict[str, Any]) -> None:
    model = trained(options)
    fresh = LeNet(options)
    fresh.load_state_dict(model.state_dict())
    expected = model(images())
    assert torch.equal(fresh.eval()(images()), expected)
    assert torch.equal(copy.deepcopy(model)(images()), expected)
    assert [type(module) for module in copy.deepcopy(model).modules()] == [type(module) for module in model.modules()]


@written
def test_calibration_sets_every_range_without_training(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LeNet(options).eval()
    if any(not quantiser.ready for quantiser in quantisers_of(model).values()):
        with pytest.raises(StageError, match="has no range") as caught:
            model(images())
        assert caught.value.code == "MC423"
    calibrate(model, [images()])
    before = copy.deepcopy(model.state_dict())
    assert model(images()).isfinite().all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_calibration_starts_the_scale_of_a_weight_where_conversion_does() -> None:
    torch.manual_seed(0)
    floating = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    converted = quantize(floating, (images(),), scheme="lsq", w_bits=3, calibration=[images()])
    by_hand = nn.Sequential(
        QuantConv2d(1, 4, 3, scheme="lsq", w_bits=3), nn.Flatten(), QuantLinear(144, 5, scheme="lsq", w_bits=3)
    )
    by_hand.load_state_dict(floating.state_dict(), strict=False)
    calibrate(by_hand, [images()])
    for mine, theirs in ((by_hand[0], converted.get_submodule("0")), (by_hand[2], converted.get_submodule("2"))):
        assert torch.equal(mine.weight_quantizer.scale, theirs.weight_quantizer.scale)  # type: ignore[union-attr]
    assert torch.equal(by_hand.eval()(images()), converted.eval()(images()))


def test_the_arguments_are_those_of_the_original() -> None:
    original = nn.Conv2d(4, 8, (3, 5), 2, (1, 2), 2, 2, False, "circular", dtype=torch.float64)
    ours = QuantConv2d(4, 8, (3, 5), 2, (1, 2), 2, 2, False, "circular", dtype=torch.float64, w_bits=32, a_bits=32)
    ours.load_state_dict(original.state_dict())
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    assert torch.equal(ours(x), original(x))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_at_32_bits_a_layer_is_the_float_layer(scheme: str) -> None:
    off: Any = {"scheme": scheme, "w_bits": 32, "a_bits": 32}
    of = (3, 5)
    pairs = [
        (QuantConv2d(*of, 3, **off), nn.Conv2d(*of, 3), (2, 3, 6, 6)),
        (QuantConvTranspose2d(*of, 3, **off), nn.ConvTranspose2d(*of, 3), (2, 3, 6, 6)),
        (QuantLinear(*of, **off), nn.Linear(*of), (2, 3)),
        (QuantGRU(*of, **off), nn.GRU(*of), (4, 2, 3)),
        (QuantLSTMCell(*of, **off), nn.LSTMCell(*of), (2, 3)),
    ]
    for quantised, plain, shape in pairs:
        plain.load_state_dict(quantised.state_dict(), strict=False)
        x = torch.randn(shape)
        found, expected = quantised(x), plain(x)
        assert torch.equal(found[0], expected[0])


def test_an_explicit_quantiser_is_taken_as_it_is() -> None:
    weight, read = TernaryWeight(), AffineQuantizer(4, observer="minmax")
    layer = QuantLinear(6, 3, weight_quantizer=weight, input_quantizer=read)
    assert layer.weight_quantizer is weight
    assert layer.input_quantizer is read
    assert QuantLinear(6, 3, weight_quantizer=TernaryWeight()).input_quantizer is None
    shared = LSQuantizer(4, False)
    assert QuantReLU(output_quantizer=shared).output_quantizer is shared


def test_bits_of_weights_and_inputs_are_counted_as_told() -> None:
    layer = QuantConv2d(3, 4, 3, scheme="iao", w_bits=3, a_bits=5, signed_input=False)
    assert layer.weight_quantizer.bits == 3
    assert layer.input_quantizer is not None
    assert (layer.input_quantizer.qmin, layer.input_quantizer.qmax) == (0, 31)
    assert QuantLinear(3, 4, scheme="iao", signed_input=False, levels=127).input_quantizer.qmax == 127  # type: ignore[union-attr]
    rows = {row["name"]: row["bits"] for row in describe(calibrated(nn.Sequential(layer), torch.rand(2, 3, 5, 5)))}
    assert rows == {"0": 3, "0.input_quantizer": 5}


def calibrated(model: nn.Module, x: Tensor) -> nn.Module:
    calibrate(model, [x])
    return model


@pytest.mark.parametrize("kind", [QuantReLU, QuantReLU6, QuantSiLU, QuantGELU, QuantHardswish, QuantLeakyReLU])
def test_a_quantised_function_is_the_function_on_a_grid(kind: type[nn.Module]) -> None:
    layer = calibrated(kind(scheme="iao", a_bits=16), x := torch.linspace(-7, 7, 101)).eval()
    original: nn.Module = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules.act"))()
    assert (layer(x) - original(x)).abs().max().item() < 3e-4
    assert (layer.output_quantizer.qmin == 0) == (original(x).min().item() >= 0)  # type: ignore[union-attr,operator]


def test_a_binary_activation_takes_the_place_of_its_relu() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 3.0])
    assert QuantReLU(scheme="wbwtab")(x).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda **how: QuantConvTranspose2d(4, 6, 3, stride=2, output_padding=1, **how), (2, 4, 5, 5)),
        (lambda **how: QuantLSTM(4, 3, 2, batch_first=True, bidirectional=True, **how), (2, 6, 4)),
        (lambda **how: QuantGRU(4, 3, **how), (6, 2, 4)),
        (lambda **how: QuantLSTMCell(4, 3, **how), (2, 4)),
    ],
)
@pytest.mark.parametrize("scheme", ["iao", "lsq", "ristretto"])
def test_other_layers_are_written_the_same_way(layer: Any, shape: tuple[int, ...], scheme: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    made, off = layer(scheme=scheme), layer(w_bits=32, a_bits=32)
    made.load_state_dict(off.state_dict(), strict=False)
    calibrate_and_run = [
        each[0] if isinstance(each, tuple) else each for each in (off(x), calibrated(made, x).eval()(x))
    ]
    apart = (calibrate_and_run[1] - calibrate_and_run[0]).norm() / calibrate_and_run[0].norm()
    assert 0 < apart.item() < 0.03
    made.train()(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_attention_is_written_the_same_way() -> None:
    torch.manual_seed(0)
    off = QuantMultiheadAttention(8, 2, batch_first=True, w_bits=32, a_bits=32)
    made = QuantMultiheadAttention(8, 2, batch_first=True, scheme="lsq")
    made.load_state_dict(off.state_dict(), strict=False)
    x = torch.randn(3, 5, 8)
    made.train()(x, x, x)
    found, expected = made.eval()(x, x, x)[0], off.eval()(x, x, x)[0]
    assert 0 < ((found - expected).norm() / expected.norm()).item() < 0.2


def test_an_embedding_reads_indices_and_says_so() -> None:
    table = QuantEmbedding(7, 4, scheme="iao", w_bits=4)
    assert table.input_quantizer is None
    assert table(torch.tensor([1, 2])).shape == (2, 4)
    with pytest.raises(UsageError, match="reads indices"):
        QuantEmbedding(7, 4, a_bits=8)


@pytest.mark.parametrize(
    "wrong", [{"scheme": "nonsense"}, {"w_bits": 1}, {"scheme": "iao", "observer": "nonsense"}, {"a_bits": 33}]
)
def test_what_a_scheme_does_not_offer_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        QuantLinear(3, 4, **wrong)
    assert caught.value.code == "MC427"
    with pytest.raises(UsageError, match="no option `variants`"):
        QuantLinear(3, 4, variants="paper")


def test_quantisers_are_made_as_their_papers_name_them() -> None:
    x = torch.randn(4, 3, 3, 3)
    made = [
        DoReFaWeight(4, "paper"),
        DoReFaActivation(4, "int_exact"),
        BinaryWeight(),
        TernaryWeight(),
        BinaryActivation("soft_ste"),
        AffineQuantizer(8, False, 0, "minmax"),
        LSQuantizer(4, True),
        RistrettoQuantizer(8, "saturate"),
    ]
    for each in made:
        levels = each.train()(x).unique().numel()
        assert levels <= (4 * 2**each.bits if each.bits <= 4 else x.numel())
        assert not torch.equal(each(x), x)


@pytest.mark.parametrize("levels", [255, 127])
def test_inputs_quantised_at_the_door_reach_the_file_of_a_converted_network(tmp_path: Path, levels: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    model.train()(images())
    converted = quantize(
        model.eval(), (images(),), scheme="iao", route="modules", levels=levels, calibration=[images()]
    )
    folded = fold_batch_norms(converted.eval(), (images(),))
    assert (folded.model(images()) - converted(images())).abs().max().item() < 1e-5
    for each in (converted, folded.model):
        lowering = to_onnx(each, (images(),), tmp_path / "m.onnx", "onnxruntime" if levels == 255 else "tensorrt")
        assert lowering.exact
        assert {row.name for row in lowering.tensors if row.kind == "activation"} == set(quantisers_of(converted))
