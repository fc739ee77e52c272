from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import mcomp
from mcomp.recipe import Recipe
from mcomp.stages.base import Surroundings
from mcomp.stages.builtin.calibrate import AdaRound, Calibrate

ON_THE_CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data() -> Any:
    return mcomp.data.load(name="digits", image_size=12, batch_size=64, limit=400)


@pytest.fixture(scope="module")
def trained(data: Any) -> nn.Module:
    model = mcomp.models.build("nin", num_classes=10, width=0.25, in_shape=data.in_shape)
    return mcomp.stages.train(model, data, epochs=6, **ON_THE_CPU).model


def calibrated(model: nn.Module, data: Any, **options: Any) -> Any:
    return mcomp.stages.calibrate(
        model, data, scheme="iao", per_channel=False, calibration_samples=128, **options, **ON_THE_CPU
    )


def test_eight_bits_keep_what_the_float_network_has_learned(trained: nn.Module, data: Any) -> None:
    expected = mcomp.stages.evaluate(trained, data, **ON_THE_CPU).metrics["top1"]
    assert abs(calibrated(trained, data).metrics["top1"] - expected) <= 2.5


def test_what_is_done_for_the_weights_lowers_the_loss_at_three_bits(trained: nn.Module, data: Any) -> None:
    plain = calibrated(trained, data, w_bits=3).metrics["loss"]
    for more in (
        {"bias_correction": True},
        {"adaround": {"iterations": 100}},
        {"reestimate_bn": 4},
    ):
        assert calibrated(trained, data, w_bits=3, **more).metrics["loss"] < plain, more


def test_the_figures_and_notes_tell_what_was_done(trained: nn.Module, data: Any) -> None:
    done = calibrated(trained, data, w_bits=3, equalize=True, adaround={"iterations": 5})
    assert done.metrics["pairs_equalized"] >= 8
    assert done.metrics["weights_moved"] > 0
    assert any("learned rounding left, on their grid" in note for note in done.notes)
    assert any("pairs of layers equalised" in note for note in done.notes)
    binary = mcomp.stages.calibrate(trained, data, scheme="wbwtab", a_bits=32, adaround=True, **ON_THE_CPU)
    assert binary.metrics["weights_moved"] == 0
    assert not any("learned rounding left" in note for note in binary.notes)
    assert sum("rounded to the nearest level" in note for note in binary.notes) == binary.metrics["layers_quantized"]


def test_thirty_two_bits_throughout_are_noted(trained: nn.Module, data: Any) -> None:
    done = calibrated(trained, data, w_bits=32, a_bits=32)
    assert done.notes[0] == "32 bits throughout: nothing is quantised"
    assert done.metrics["layers_quantized"] == 0
    assert "32 bits throughout" not in " ".join(calibrated(trained, data, w_bits=8).notes)


def test_a_quantised_network_is_calibrated_from_its_latent_weights(trained: nn.Module, data: Any) -> None:
    first = mcomp.stages.quantize(trained, data, w_bits=8, epochs=0, **ON_THE_CPU).model
    again, direct = (calibrated(model, data, w_bits=4, equalize=True).model.state_dict() for model in (first, trained))
    assert list(again) == list(direct)
    assert all(torch.equal(again[name], direct[name]) for name in direct)


@pytest.mark.parametrize(
    ("given", "read"),
    [(True, AdaRound()), (False, None), (None, None), ({"iterations": 5}, AdaRound(iterations=5))],
)
def test_adaround_is_a_yes_or_a_mapping(given: Any, read: Any) -> None:
    assert Calibrate.Options.model_validate({"adaround": given}).adaround == read


@pytest.mark.parametrize(
    "options", [{"adaround": 3}, {"adaround": {"steps": 3}}, {"reestimate_bn": 0}, {"epochs": 2}, {"equalize": "yes"}]
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Calibrate.Options.model_validate(options)


def test_rounding_that_decides_nothing_is_warned_of() -> None:
    options = Calibrate.Options.model_validate({"scheme": "wbwtab", "adaround": True})
    (finding,) = Calibrate.check(options, Surroundings())
    assert finding.option == ("adaround",)
    assert finding.severity == "warning"


def test_what_is_calibrated_can_be_fused_and_delivered() -> None:
    text = "version: 1\nname: r\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [calibrate, bn_fuse, trt_int8]\n"
    recipe = Recipe.from_text(text)
    assert recipe.stages[0].options.levels == 127
