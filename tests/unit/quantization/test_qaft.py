from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.errors import RecipeError
from mcomp.recipe import Recipe

ON_THE_CPU = {"device": "cpu", "precision": "fp32"}


@pytest.mark.parametrize("scheme", ["dorefa", "iao", "lsq", "pact"])
def test_weights_move_and_ranges_and_statistics_do_not(scheme: str) -> None:
    data = mcomp.data.load(name="synthetic", num_classes=3, samples=64, image_size=12)
    model: Any = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    quantised = mcomp.stages.quantize(model, data, scheme=scheme, epochs=0, **ON_THE_CPU).model
    before = copy.deepcopy(quantised.state_dict())
    done = mcomp.stages.qaft(quantised, data, epochs=1, lr=0.05, **ON_THE_CPU)
    weights = {f"{name}.weight" for name, each in quantised.named_modules() if isinstance(each, nn.Conv2d)}
    after = done.model.state_dict()
    still = [name for name in before if "quantizer" in name or "running_" in name]
    assert still
    assert all(torch.equal(after[name], before[name]) for name in still)
    assert any(not torch.equal(after[name], before[name]) for name in weights)


def test_a_float_network_has_no_ranges_to_freeze() -> None:
    text = "version: 1\nname: r\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [train, qaft]\n"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text)
    assert caught.value.diagnostics[0].code == "MC113"
