from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.errors import McompError, StageError, UsageError
from mcomp.quantization import calibrate, describe, fold_batch_norms, quantize, read_overrides
from mcomp.quantization.calibration import quantizers, weight_quantizers
from mcomp.quantization.summary import float_layers
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm

ROUTES = ("symbolic", "export", "modules")


def made(overrides: dict[str, dict[str, Any]], model: nn.Module | None = None, **more: Any) -> nn.Module:
    quantised = quantize(warm(Residual()) if model is None else model, (batch(),), overrides=overrides, **more)
    calibrate(quantised, [batch(16)])
    return quantised


def schemes(model: nn.Module) -> dict[str, tuple[str, int]]:
    return {name: (quantizer.scheme, quantizer.bits) for name, quantizer in weight_quantizers(model).items()}


@pytest.mark.parametrize("route", ROUTES)
def test_each_layer_gets_the_scheme_and_bits_of_the_first_pattern_that_matches(route: Any) -> None:
    names = list(schemes(made({}, scheme="iao")))
    found = schemes(
        made(
            {"position:first": {"scheme": "lsq"}, names[1]: {"w_bits": 3}, "type:Conv2d": {"scheme": "dorefa"}},
            scheme="iao",
            route=route,
        )
    )
    assert found[names[0]] == ("lsq", 8)
    assert found[names[1]] == ("iao", 3)
    assert {found[name] for name in names[2:-1]} == {("dorefa", 8)}
    assert found[names[-1]] == ("iao", 8), "the last is linear"


@pytest.mark.parametrize("route", ROUTES)
def test_binary_weights_may_read_activations_of_another_scheme(route: Any) -> None:
    quantised = made({}, scheme="wbwtab", w_bits=1, a_scheme="lsq", a_bits=4, route=route)
    assert {scheme for scheme, _ in schemes(quantised).values()} == {"wbwtab"}
    activations = {(each.scheme, each.bits) for each in quantizers(quantised).values()}
    assert activations == {("lsq", 4)}


def test_float_is_a_scheme_of_an_override() -> None:
    quantised = made({"type:Linear": {"scheme": "float"}}, scheme="iao")
    assert "scheme float" in float_layers(quantised).values()
    assert all(not isinstance(module, nn.Linear) for module in weight_modules(quantised))


def weight_modules(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(name) for name in weight_quantizers(model)]


def test_an_override_beats_the_rule_that_the_first_layer_stays_float() -> None:
    assert "first layer (first_layer_float)" in float_layers(made({}, scheme="dorefa")).values()
    assert float_layers(made({"position:first": {"w_bits": 8}}, scheme="dorefa")) == {}


def test_options_of_a_scheme_may_differ_per_layer() -> None:
    quantised = made({"position:last": {"observer": "entropy", "per_channel": False}}, scheme="iao")
    last = list(weight_quantizers(quantised).values())[-1]
    assert last.integer(torch.randn(4, 4)).scale.numel() == 1
    assert {each.calibration for each in quantizers(quantised).values()} == {"moving_average", "entropy"}


def test_skip_takes_types_and_positions() -> None:
    left = float_layers(made({}, scheme="iao", skip=["type:Linear", "position:first"]))
    assert set(left.values()) == {"skip `type:Linear`", "skip `position:first`"}


def test_a_tensor_read_at_two_precisions_gets_the_finer_scheme() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stem(x)
            both: torch.Tensor = self.left(y) + self.right(y)
            return both

    quantised = made({"left": {"scheme": "wbwtab"}, "right": {"a_bits": 6}}, model=Fork(), scheme="iao")
    row = next(row for row in describe(quantised) if set(row["readers"]) == {"left", "right"})
    assert (row["scheme"], row["bits"]) == ("iao", 6)


@pytest.mark.parametrize("route", ROUTES)
def test_a_mixed_network_is_folded_and_comes_back_from_disk_as_it_was(route: Any, tmp_path: Path) -> None:
    model = mcomp.models.lenet(num_classes=5)
    x = torch.rand(4, 3, 32, 32)
    overrides = {"position:first": {"scheme": "iao", "observer": "mse"}, "position:last": {"scheme": "ristretto"}}
    quantised = quantize(model, (x,), scheme="lsq", w_bits=4, a_bits=4, overrides=overrides, route=route)
    calibrate(quantised, [x])
    expected = quantised.eval()(x)
    mcomp.save_model(quantised, tmp_path / "saved", (x,))
    assert torch.equal(mcomp.load_model(tmp_path / "saved")(x), expected)
    if route != "modules":
        assert fold_batch_norms(quantised, (x,)).error < 1e-5


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"*": {"scheme": "lsqq"}}, "no quantisation scheme `lsqq`"),
        ({"*": {"w_bit": 4}}, "did you mean `w_bits`"),
        ({"*": {"scheme": "float", "w_bits": 4}}, "asks float for `w_bits: 4`"),
        ({"*": {"scheme": "wbwtab", "w_bits": 4}}, "use 1 or 2 bits"),
        ({"*": {"observer": "mse"}}, "holds unknown `observer`"),
        ({"*": {"scheme": "iao", "observer": "median"}}, "has no observer `median`"),
        ({"*": {"scheme": "lsq", "per_channel": True}}, "has no `per_channel`"),
    ],
)
def test_what_an_override_cannot_ask_is_refused(overrides: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(UsageError) as error:
        made(overrides, model=chain())
    assert said in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    ("pattern", "said"), [("type:Conv3d", "`type:Conv2d`"), ("position:middle", "`position:first`"), ("fc9", "matches")]
)
def test_a_pattern_that_means_no_layer_is_refused_with_those_that_do(pattern: str, said: str) -> None:
    with pytest.raises(StageError) as error:
        made({pattern: {"w_bits": 4}}, model=chain())
    assert said in f"{error.value} {error.value.hint}"


def test_overrides_come_from_a_file(tmp_path: Path) -> None:
    bits = {"features.*": {"w_bits": 4}}
    for name, text in (("a.yaml", "overrides:\n  features.*: {w_bits: 4}\n"), ("b.json", json.dumps(bits))):
        (tmp_path / name).write_text(text)
        assert read_overrides(tmp_path / name) == bits
    (tmp_path / "c.yaml").write_text("[1, 2]")
    for name in ("c.yaml", "missing.yaml"):
        with pytest.raises(McompError):
            read_overrides(tmp_path / name)
