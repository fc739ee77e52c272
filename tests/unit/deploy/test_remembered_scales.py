from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mcomp.data
from mcomp.data import Data
from mcomp.deploy import remembered_scales
from mcomp.deploy.remembered_scales import RememberedScales
from mcomp.quantization import calibrate, quantize
from mcomp.stages.base import StageContext, StageResult
from mcomp.stages.builtin.trt_int8 import TrtInt8
from tests.unit.deploy.deploy_networks import Residual, chain, images

SCHEMES = [{"scheme": "iao"}, {"scheme": "lsq"}, {"scheme": "pact"}, {"scheme": "ristretto"}, {"scheme": "dorefa"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCOMP_CACHE", str(tmp_path / "cache_home"))


class Batches:
    """Makes the same batches again, and counts how often they were run through a network."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed

    def __call__(self) -> Iterator[Tensor]:
        yield from images(12, self.seed).split(4)


def fresh(**options: str) -> nn.Module:
    torch.manual_seed(0)
    return quantize(chain().eval(), (images(2),), first_layer_float=False, **options).eval()  # type: ignore[arg-type]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every calibration that really ran."""
    found: list[str] = []

    def counted(model: nn.Module, batches: object, method: str | None = None) -> list[str]:
        found.append(method or "")
        return calibrate(model, batches, method)  # type: ignore[arg-type]

    monkeypatch.setattr(remembered_scales, "calibrate", counted)
    return found


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme["scheme"])
def test_remembered_ranges_are_those_that_calibration_finds(scheme: dict[str, str], runs: list[str]) -> None:
    plain, first, second = fresh(**scheme), fresh(**scheme), fresh(**scheme)
    names = calibrate(plain, Batches()(), "minmax")
    assert RememberedScales()(first, Batches(), "minmax") == names
    scales = RememberedScales()
    assert scales(second, Batches(), "minmax") == names
    assert runs == ["minmax"]
    assert "an earlier run" in scales.notes[0]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(first.state_dict()[name], tensor)
        assert torch.equal(second.state_dict()[name], tensor)
    assert torch.equal(second(images()), plain(images()))


def test_other_images_another_method_or_another_weight_are_calibrated_anew(runs: list[str]) -> None:
    RememberedScales()(fresh(), Batches(), "minmax")
    RememberedScales()(fresh(), Batches(seed=2), "minmax")
    RememberedScales()(fresh(), Batches(seed=2), "mse")
    changed = fresh()
    with torch.no_grad():
        next(changed.parameters()).mul_(1.001)
    RememberedScales()(changed, Batches(seed=2), "mse")
    assert len(runs) == 4


def test_another_structure_with_the_same_tensors_is_calibrated_anew(runs: list[str]) -> None:
    def model(stride: int) -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
        return quantize(layers, (images(2),), first_layer_float=False).eval()

    RememberedScales()(model(1), Batches(), "minmax")
    RememberedScales()(model(2), Batches(), "minmax")
    assert len(runs) == 2


def test_changed_code_of_the_calibration_is_calibrated_anew(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    RememberedScales()(fresh(), Batches(), "minmax")
    monkeypatch.setattr(remembered_scales, "_code_digest", lambda: "another")
    RememberedScales()(fresh(), Batches(), "minmax")
    assert len(runs) == 2


def test_a_file_of_an_earlier_run_serves_where_everything_is_the_same(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RememberedScales()
    first(fresh(), Batches(), "minmax")
    file = first.write(tmp_path / "calibration.json")
    monkeypatch.setenv("MCOMP_CACHE", str(tmp_path / "elsewhere"))
    second = RememberedScales(file)
    second(fresh(), Batches(), "minmax")
    assert len(runs) == 1
    assert f"are those of `{file}`" in second.notes[0]
    assert second.entries == first.entries


@pytest.mark.parametrize(
    ("seed", "method", "note"), [(2, "minmax", "was made of other images"), (1, "mse", "is of another model, method")]
)
def test_a_file_that_does_not_fit_is_told_and_not_used(
    tmp_path: Path, runs: list[str], seed: int, method: str, note: str
) -> None:
    first = RememberedScales()
    first(fresh(), Batches(), "minmax")
    second, expected, found = RememberedScales(first.write(tmp_path / "c.json")), fresh(), fresh()
    second(found, Batches(seed), method)
    calibrate(expected, Batches(seed)(), method)
    assert len(runs) == 2
    assert note in second.notes[0]
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '[{"format": 0}]', "\x00"])
def test_a_file_of_something_else_is_told_and_not_used(tmp_path: Path, runs: list[str], content: str | None) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_text(content)
    scales = RememberedScales(file)
    scales(fresh(), Batches(), "minmax")
    assert len(runs) == 1
    assert "holds no calibrated ranges" in scales.notes[0]


def test_a_damaged_cache_is_calibrated_over(tmp_path: Path, runs: list[str]) -> None:
    RememberedScales()(fresh(), Batches(), "minmax")
    [kept] = (tmp_path / "cache_home" / "calibration").iterdir()
    kept.write_text(kept.read_text()[:100])
    RememberedScales()(fresh(), Batches(), "minmax")
    RememberedScales()(fresh(), Batches(), "minmax")
    assert len(runs) == 2


def test_a_rebuild_with_other_options_of_the_engine_does_not_calibrate_again(tmp_path: Path, runs: list[str]) -> None:
    data = mcomp.data.load("digits", image_size=8, limit=100)
    first = stage(Residual().eval(), data, tmp_path / "first")
    again = stage(Residual().eval(), data, tmp_path / "other")  # other weights
    count = len(runs)
    model = Residual().eval()
    one, two = stage(model, data, tmp_path / "one"), stage(model, data, tmp_path / "two", optimization_level=5)
    assert len(runs) == count + count // 2
    assert any("same model and images" in note for note in two.notes)
    assert not any("same model and images" in note for found in (first, again, one) for note in found.notes)
    assert one.files["calibration.json"].read_bytes() == two.files["calibration.json"].read_bytes()
    assert one.details["lowering"]["tensors"] == two.details["lowering"]["tensors"]
    entry = json.loads(one.files["calibration.json"].read_text())[0]
    assert {"model_sha256", "data_sha256", "code_sha256", "method", "names", "ranges"} <= entry.keys()


def stage(model: nn.Module, data: Data, folder: Path, **options: int) -> StageResult:
    folder.mkdir()
    context = StageContext(model, data.example_inputs, data, folder, stage_id="trt_int8")
    calibration = {"method": "minmax", "samples": 32}
    return TrtInt8().run(context, TrtInt8.Options(latency_runs=2, calibration=calibration, **options))
