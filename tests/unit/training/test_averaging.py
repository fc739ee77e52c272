from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import mcomp
from mcomp.errors import StageError
from mcomp.training.averaging import WeightAverage
from tests.unit.training.toys import Kept, ToyData, same_bits, toy_net, train


def test_the_average_is_the_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 4.0, 1.5]
    with torch.no_grad():
        layer.weight.fill_(2.0)
        average, expected = WeightAverage(layer, 0.3), 2.0
        for step, value in enumerate(values, 1):
            layer.weight.fill_(value)
            average.update(step)
            decay = min(0.3, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
    with average.in_place():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == values[-1]


def test_what_is_delivered_is_the_average_of_every_step_s_weights_and_norms_statistics() -> None:
    steps: list[dict[str, torch.Tensor]] = []
    before = {name: value.clone() for name, value in toy_net().state_dict().items()}
    found = train(
        settings={"ema": 0.9},
        after_step=lambda model, _step: steps.append({k: v.clone() for k, v in model.state_dict().items()}),
    ).model.state_dict()
    for name, value in found.items():
        mean = before[name]
        if name.endswith("num_batches_tracked"):
            assert int(value) == len(steps)
            continue
        for number, seen in enumerate(steps, 1):
            decay = min(0.9, (1 + number) / (10 + number))
            mean = decay * mean + (1 - decay) * seen[name]
        torch.testing.assert_close(value, mean)
        assert not torch.equal(value, steps[-1][name])


def test_validation_measures_the_average_and_training_does_not_notice() -> None:
    data = ToyData()
    with_average = train(data=data, settings={"ema": 0.95})
    accuracy = mcomp.metrics.evaluate(with_average.model, data.val).top1  # type: ignore[arg-type]
    assert with_average.history[-1]["val_top1"] == accuracy
    without = train(data=data)
    assert [row["loss"] for row in with_average.history] == [row["loss"] for row in without.history]
    assert not same_bits(with_average.model, without.model)


def test_zeros_that_were_cut_stay_zero_in_the_average() -> None:
    model = toy_net()
    cut = mcomp.pruning.sparsify(model, (torch.zeros(2, 1, 6, 6),), ratio=0.5).model
    zeros = {name: weight == 0 for name, weight in cut.named_parameters() if weight.ndim > 1}
    assert any(bool(cut.any()) for cut in zeros.values())
    trained = train(cut, settings={"ema": 0.9}).model
    for name, weight in trained.named_parameters():
        if name in zeros:
            assert torch.equal(weight == 0, zeros[name])


def test_a_snapshot_without_an_average_is_refused_where_one_is_wanted() -> None:
    kept = Kept()
    train(save=kept.save)
    with pytest.raises(StageError, match="no average of these weights") as caught:
        train(settings={"ema": 0.9}, restore=kept.restore)
    assert caught.value.code == "MC405"


@pytest.mark.parametrize("scheme", ["iao", "lsq", "ristretto"])
def test_a_quantised_network_of_averaged_weights_ships_as_it_was_measured(scheme: str, tmp_path: Path) -> None:
    data = mcomp.data.load(name="synthetic", num_classes=3, samples=96, image_size=12)
    model = mcomp.models.build("nin", num_classes=3, width=0.1, in_shape=data.in_shape)
    tricks = {"ema": 0.9, "mixup": 0.2, "cutmix": 0.5, "label_smoothing": 0.1}
    found = mcomp.stages.quantize(model, data, scheme=scheme, epochs=1, device="cpu", precision="fp32", **tricks)
    assert mcomp.metrics.evaluate(found.model, data.test).top1 == found.metrics["top1"]
    assert mcomp.deploy.to_onnx(found.model, data.example_inputs, tmp_path / "model.onnx").exact
