"""What a newcomer passes by mistake is told in one sentence, with a code and what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mcomp.errors import McompError, StageError, UsageError
from mcomp.quantization import (
    QuantConv2d,
    QuantLinear,
    QuantLSTM,
    QuantMultiheadAttention,
    QuantReLU,
    adaptive_rounding,
    calibrate,
    correct_bias,
    decision_table,
    describe,
    equalize,
    fold_batch_norms,
    freeze,
    layer_report,
    quantize,
    reestimate_batch_norms,
    sensitivity,
)
from tests.unit.quantization.quantization_nets import batch, chain, warm


def refused(call: Callable[[], Any], code: str) -> McompError:
    with pytest.raises(McompError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def made(**options: Any) -> nn.Module:
    return quantize(warm(chain()), (batch(),), scheme="iao", **options)


@pytest.mark.parametrize(
    ("options", "said", "instead"),
    [
        ({"overrides": {"3": 4}}, "override `3` is `4`", "{'3': {'w_bits': 4}}"),
        ({"overrides": ["3"]}, "`overrides` is ['3']", "overrides={"),
        ({"skip": "conv"}, "`skip` is 'conv'", "skip=['conv']"),
        ({"skip": [3]}, "`skip` is [3]", "in a list"),
        ({"levels": "auto"}, "`levels` is 'auto'", "127"),
        ({"per_channel": "yes"}, "`per_channel` is 'yes'", "True or False"),
        ({"first_layer_float": 1}, "`first_layer_float` is 1", "True or False"),
        ({"w_bit": 8}, "no option `w_bit`", "did you mean `w_bits`"),
        ({"observr": "mse"}, "no option `observr`", "did you mean `observer`"),
        ({"observer": "minmx"}, "no observer `minmx`", "did you mean `minmax`"),
        ({"observer": ["mse"]}, "no observer `['mse']`", "one of"),
        ({"symmetric_weights": 1}, "no symmetric_weights `1`", "one of: True, False"),
        ({"a_scheme": "lqs"}, "no quantisation scheme `lqs`", "did you mean `lsq`"),
        ({"a_scheme": ["lsq"]}, "no quantisation scheme", "schemes: "),
        ({"w_bits": "8"}, "`w_bits` is '8'", "2..16 bits"),
        ({"a_scheme": "wbwtab", "a_bits": 4}, "`a_bits` is 4", "use 1 bit, or 32"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_with_the_right_one(
    options: dict[str, Any], said: str, instead: str
) -> None:
    error = refused(lambda: made(**options), "MC427")
    assert isinstance(error, UsageError)
    assert said in error.message
    assert instead in error.hint


def test_all_wrong_options_are_told_at_once() -> None:
    wrong: dict[str, Any] = {"w_bits": 77, "a_bits": 99, "levels": 0, "w_bit": 3, "route": "x", "skip": "a"}
    error = refused(lambda: made(**wrong, overrides={"*": {"w_bits": 1, "obsrver": "mse"}}), "MC427")
    for part in ("77", "99", "`levels` is 0", "`w_bit`", "route `x`", "`skip`", "*: w_bits", "`obsrver`"):
        assert part in error.message
    unknown = refused(lambda: made(a_scheme="lqs", levels=0), "MC427")
    assert "lqs" in unknown.message
    assert "`levels` is 0" in unknown.message


@pytest.mark.parametrize(
    ("layer", "meant"),
    [
        (lambda: QuantConv2d(3, 4, 3, w_bit=8), "`w_bits`"),
        (lambda: QuantConv2d(3, 4, 3, pading=1), "`padding`"),
        (lambda: QuantLinear(3, 4, scheme="iao", observr="mse"), "`observer`"),
        (lambda: QuantReLU(abits=8), "`a_bits`"),
        (lambda: QuantLSTM(3, 4, w_bit=8), "`w_bits`"),
        (lambda: QuantLSTM(3, 4, num_layer=2), "`num_layers`"),
        (lambda: QuantMultiheadAttention(4, 2, batchfirst=True), "`batch_first`"),
    ],
)
def test_a_misspelt_keyword_of_a_layer_is_refused_with_what_was_meant(layer: Callable[[], Any], meant: str) -> None:
    error = refused(layer, "MC427")
    assert f"did you mean {meant}" in error.hint


def test_a_layer_takes_every_keyword_of_the_original() -> None:
    conv = QuantConv2d(in_channels=4, out_channels=4, kernel_size=3, padding=1, groups=2, bias=False, dtype=torch.float)
    assert (conv.padding, conv.groups, conv.bias) == ((1, 1), 2, None)
    assert QuantLSTM(input_size=3, hidden_size=4, num_layers=2, batch_first=True).num_layers == 2

    class Mine(QuantConv2d):
        def __init__(self, width: int, **more: Any) -> None:
            super().__init__(width, width, 3, **more)

    assert Mine(4, padding=1, w_bits=4).padding == (1, 1)


ON_BATCHES: dict[str, Callable[[Any], Any]] = {
    "calibrate": lambda batches: calibrate(made(), batches),
    "quantize": lambda batches: made(calibration=batches),
    "layer_report": lambda batches: layer_report(made(calibration=[batch()]), batches),
    "sensitivity": lambda batches: sensitivity(warm(chain()), (batch(),), batches),
    "reestimate_batch_norms": lambda batches: reestimate_batch_norms(warm(chain()), batches),
    "correct_bias": lambda batches: correct_bias(made(calibration=[batch()]), warm(chain()), batches),
    "adaptive_rounding": lambda batches: adaptive_rounding(
        made(calibration=[batch()]), warm(chain()), batches, iterations=1
    ),
    "equalize": lambda batches: equalize(warm(chain()), (batch(),), batches),
}


@pytest.mark.parametrize("name", ON_BATCHES)
def test_what_are_no_batches_is_refused_and_one_tensor_is_told_to_be_one(name: str) -> None:
    error = refused(lambda: ON_BATCHES[name](batch()), "MC429")
    assert "one tensor of shape [4, 3, 12, 12]" in error.message
    assert "`[tensor]`" in error.hint
    for wrong in (3, "images", {"x": batch()}):
        refused(lambda wrong=wrong: ON_BATCHES[name](wrong), "MC429")


@pytest.mark.parametrize("name", ON_BATCHES)
def test_a_batch_that_does_not_fit_is_told_with_its_place_and_shape(name: str) -> None:
    if name == "equalize":
        pytest.skip("its batches run only where a channel can give a part of its bias away")
    error = refused(lambda: ON_BATCHES[name]([batch(), batch(shape=(2, 12, 12))]), "MC429")
    assert "[4, 2, 12, 12]" in error.message
    assert "channels" in error.why
    for wrong in (None, (), {"x": batch()}):
        refused(lambda wrong=wrong: ON_BATCHES[name]([wrong]), "MC429")


def test_a_batch_that_does_not_fit_leaves_no_range_behind() -> None:
    model = made()
    error = refused(lambda: calibrate(model, [batch(), batch(shape=(2, 12, 12))]), "MC429")
    assert "batch 2" in error.message
    assert calibrate(model, [batch()]) != []


def test_one_tensor_is_an_example_input() -> None:
    model = warm(chain())
    assert torch.equal(quantize(model, batch(), calibration=[batch()])(batch()), made_by_tuple(model))  # type: ignore[arg-type]
    assert fold_batch_norms(model, batch()).count == 3  # type: ignore[arg-type]
    assert equalize(model, batch()).pairs == equalize(model, (batch(),)).pairs  # type: ignore[arg-type]


def made_by_tuple(model: nn.Module) -> torch.Tensor:
    output: torch.Tensor = quantize(model, (batch(),), calibration=[batch()])(batch())
    return output


@pytest.mark.parametrize("route", ["auto", "symbolic", "export", "modules"])
def test_example_inputs_that_do_not_fit_are_told_with_their_shape(route: str) -> None:
    wrong = (batch(shape=(2, 12, 12)),)
    error = refused(lambda: quantize(warm(chain()), wrong, route=route), "MC420" if route == "export" else "MC429")  # type: ignore[arg-type]
    assert "channels" in error.why
    assert "[4, 2, 12, 12]" in error.message or route == "export"
    refused(lambda: fold_batch_norms(warm(chain()), wrong), "MC429")


@pytest.mark.parametrize("wrong", [None, (), "images", (3,), [None]])
def test_example_inputs_are_tensors(wrong: Any) -> None:
    refused(lambda: quantize(warm(chain()), wrong), "MC429")
    refused(lambda: fold_batch_norms(warm(chain()), wrong), "MC429")


def test_a_model_is_a_module() -> None:
    for call in (
        lambda: quantize("nin", (batch(),)),  # type: ignore[arg-type]
        lambda: calibrate("nin", [batch()]),  # type: ignore[arg-type]
        lambda: fold_batch_norms("nin", (batch(),)),  # type: ignore[arg-type]
    ):
        refused(call, "MC427")


def test_a_float_network_has_nothing_to_calibrate_to_freeze_or_to_lay_out() -> None:
    model = warm(chain())
    for call in (lambda: calibrate(model, [batch()]), lambda: freeze(model), lambda: decision_table(model)):
        error = refused(call, "MC422")
        assert isinstance(error, StageError)
        assert "nothing quantised" in error.message
        assert "quantize" in error.hint


def test_a_table_is_that_of_a_model_or_of_its_rows() -> None:
    model = made(calibration=[batch()])
    assert decision_table(model) == decision_table(describe(model))


def test_a_network_without_anything_to_quantise_is_refused_with_what_was_looked_for() -> None:
    error = refused(lambda: quantize(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (batch(),)), "MC460")
    assert "convolution" in error.why
    assert "matmul" in error.why


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip": ["*"]}, "skip `*`"),
        ({"overrides": {"*": {"scheme": "float"}}}, "scheme float"),
        ({"overrides": {"*": {"w_bits": 32, "a_bits": 32}}}, "w_bits is 32"),
    ],
)
def test_a_network_of_which_everything_is_left_out_is_refused_with_the_reason(
    options: dict[str, Any], said: str
) -> None:
    error = refused(lambda: made(**options), "MC460")
    assert said in error.why


def test_a_network_of_one_layer_that_its_scheme_leaves_float_is_refused() -> None:
    one = nn.Sequential(nn.Linear(4, 2))
    error = refused(lambda: quantize(one, (torch.randn(3, 4),)), "MC460")
    assert "first layer" in error.why
    assert "first_layer_float" in error.hint
    assert describe(quantize(one, (torch.randn(3, 4),), first_layer_float=False))


def test_thirty_two_bits_throughout_may_be_asked_for_and_are_told() -> None:
    model = quantize(warm(chain()), (batch(),), scheme="iao", w_bits=32, a_bits=32)
    assert calibrate(model, [batch()]) == []
    assert freeze(model) is model
    assert decision_table(model).count("w_bits is 32") == 4


def test_a_layer_of_scheme_float_is_not_told_to_have_thirty_two_bits() -> None:
    table = decision_table(made(overrides={"3": {"scheme": "float"}, "6": {"w_bits": 32}}))
    why = {line.split()[0]: line for line in table.splitlines()}
    assert "scheme float" in why["3"]
    assert "w_bits is 32" not in why["3"]
    assert "w_bits is 32" in why["6"]
