"""What was found out about a network stays with it, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp.search.recorded import record_choice, record_sensitivity, recorded_choice, recorded_sensitivity
from mcomp.search.sensitivity_map import LayerLoss, SensitivityMap

MAP = SensitivityMap(
    base_loss=0.25,
    base_top1=90.5,
    rows=(
        LayerLoss("w_bits", "features.0", 8, 0.001, 0.0),
        LayerLoss("w_bits", "features.0", 2, 1.5, 40.0),
        LayerLoss("a_bits", "classifier", 4, -0.01, -0.5),
        LayerLoss("keep", "features.0", 0.75, 0.1, 2.0),
    ),
    images=512,
)
CHOICE: dict[str, dict[str, float]] = {
    "features.0": {"w_bits": 4, "a_bits": 8, "keep": 0.5},
    "classifier": {"w_bits": 8},
}


@pytest.fixture
def model() -> nn.Module:
    return mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=(3, 12, 12)).eval()


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)),)


def test_a_map_is_what_its_dictionary_was() -> None:
    assert SensitivityMap.from_dict(MAP.as_dict()) == MAP


def test_the_points_of_a_map_begin_where_a_layer_is_left_as_it_is() -> None:
    assert MAP.points() == {
        "w_bits:features.0": {32: 0.0, 8: 0.001, 2: 1.5},
        "a_bits:classifier": {32: 0.0, 4: -0.01},
        "keep:features.0": {1.0: 0.0, 0.75: 0.1},
    }


def test_the_worst_row_is_the_one_whose_loss_rises_most() -> None:
    assert MAP.worst == MAP.rows[1]
    assert SensitivityMap(0.0, 0.0).worst is None


def test_a_network_nobody_looked_at_has_no_record(model: nn.Module) -> None:
    assert recorded_sensitivity(model) is None
    assert recorded_choice(model) is None


def test_the_newest_record_counts(model: nn.Module) -> None:
    record_sensitivity(model, SensitivityMap(9.0, 1.0))
    record_choice(model, {})
    record_sensitivity(model, MAP)
    record_choice(model, CHOICE)
    assert recorded_sensitivity(model) == MAP
    assert recorded_choice(model) == CHOICE


def test_an_artifact_keeps_the_records_and_the_logits(
    model: nn.Module, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    record_sensitivity(model, MAP)
    record_choice(model, CHOICE)
    mcomp.save_model(model, tmp_path / "model", inputs)
    again = mcomp.load_model(tmp_path / "model")
    assert recorded_sensitivity(again) == MAP
    assert recorded_choice(again) == CHOICE
    with torch.no_grad():
        assert torch.equal(again(*inputs), model(*inputs))


def test_pruning_and_quantising_keep_the_records(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    record_sensitivity(model, MAP)
    record_choice(model, CHOICE)
    pruned = mcomp.pruning.prune(model, inputs, ratio=0.3, importance="l1").model
    made = mcomp.quantization.quantize(pruned, inputs, scheme="lsq", calibration=[inputs[0]])
    assert recorded_sensitivity(made) == MAP
    assert recorded_choice(mcomp.quantization.restore_float(made)) == CHOICE
