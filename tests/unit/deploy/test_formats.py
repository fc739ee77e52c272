"""Every format answers what the model answers, and says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp.deploy import export
from mcomp.deploy.formats import export as export_module
from mcomp.deploy.formats.export import FORMATS
from mcomp.deploy.formats.measured import _filled
from mcomp.deploy.formats.names import PACKAGES, WEIGHT_BITS, missing_packages
from mcomp.deploy.formats.plain_model import plain_model
from mcomp.deploy.formats.torchscript import TorchScript
from mcomp.errors import BackendMissingError, StageError, UsageError
from tests.unit.deploy.deploy_networks import Residual, images, quantised

PRESENT = [name for name in FORMATS if not missing_packages(name)]


def test_formats_that_need_nothing_more_are_always_there() -> None:
    assert {"onnx", "pt2", "torchscript"} <= {*PRESENT}
    assert {*PACKAGES, *WEIGHT_BITS} <= {*FORMATS}


@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize("kind", ["float", "quantised"])
def test_a_file_answers_what_it_was_made_of(name: str, kind: str, tmp_path: Path) -> None:
    model = Residual().eval() if kind == "float" else quantised(Residual(), levels=127)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = export(model, images(3), tmp_path / "out" / "model", name)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert made.bytes == sum(path.stat().st_size for path in made.files)
    with torch.no_grad():
        expected = model(images(3)) if made.reference != "weights" else plain_model(model, activations=False)(images(3))
    found = export_module.find_format(name).open(made.files)(images(3))
    assert float((found - expected).abs().max() / expected.abs().max()) == pytest.approx(made.relative_error, abs=1e-6)
    assert made.reference == ("float" if kind == "float" else "weights" if name in ("ncnn", "mnn") else "simulated")


@pytest.mark.parametrize("name", ["onnx", "pt2", "torchscript"])
def test_other_batches_go_through(name: str, tmp_path: Path) -> None:
    made = export(Residual().eval(), images(2), tmp_path / "model", name)
    assert made.notes == ()
    found = export_module.find_format(name).open(made.files)(images(5))
    assert len(found) == 5


class Pair(nn.Module):
    """Two outputs; deployed files are judged by the first."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x + 1


@pytest.mark.parametrize("name", ["pt2", "torchscript"])
def test_the_first_of_several_outputs_is_compared(name: str, tmp_path: Path) -> None:
    assert export(Pair().eval(), images(2), tmp_path / "model", name).relative_error == 0


class FixedBatch(nn.Module):
    """Writes its batch size into the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.reshape(2, 12))
        return scores


def test_a_batch_size_that_the_network_fixes_is_told(tmp_path: Path) -> None:
    made = export(FixedBatch().eval(), torch.randn(2, 3, 2, 2), tmp_path / "model", "torchscript")
    assert "batches of 2 only" in made.notes[0]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(8, 12, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(x)[0][:, -1])
        return scores


@pytest.mark.parametrize("name", ["pt2", "torchscript"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_answer_as_simulated(name: str, kind: type[nn.RNNBase], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    converted = mcomp.quantization.quantize(Recurrent(kind).eval(), (x,), scheme="lsq", w_bits=2, a_bits=8)
    mcomp.quantization.calibrate(converted, [x])
    assert export(converted.eval(), x, tmp_path / "model", name).relative_error < 1e-5


def test_a_dynamic_model_keeps_its_ranges_per_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(4, 8)
    converted = mcomp.quantization.quantize(model, (x,), scheme="dynamic")
    made = export(converted.eval(), x, tmp_path / "model", "torchscript")
    assert made.relative_error < 1e-6
    for wider in (10 * x, torch.zeros_like(x)):
        found = export_module.find_format("torchscript").open(made.files)(wider)
        with torch.no_grad():
            torch.testing.assert_close(found, converted(wider))


@pytest.mark.skipif("mnn" not in PRESENT, reason="MNN is not installed")
def test_fewer_weight_bits_make_a_smaller_file_whose_loss_is_told(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    x = torch.randn(2, 1, 16, 16)
    whole, few = (export(model, x, tmp_path / f"{bits}", "mnn", weight_bits=bits) for bits in (None, 4))
    assert few.bytes < whole.bytes / 5
    assert few.relative_error > whole.relative_error
    assert few.weight_bits == 4


def test_what_answers_differently_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchScript, "open", lambda self, files: lambda x: torch.zeros(len(x), 10))
    with pytest.raises(StageError, match="answers differently") as caught:
        export(Residual().eval(), images(2), tmp_path / "model", "torchscript")
    assert caught.value.code == "MC448"


def test_a_network_that_no_exporter_takes_is_refused_with_its_words(tmp_path: Path) -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("not today")

    with pytest.raises(StageError, match="not today") as caught:
        export(Raises(), images(2), tmp_path / "model", "pt2")
    assert caught.value.code == "MC447"


def test_names_bits_and_packages_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Residual().eval(), images(2)
    with pytest.raises(UsageError, match="did you mean `openvino`"):
        export(model, x, tmp_path / "model", "openvin")
    with pytest.raises(UsageError, match="no weights in 4 bits"):
        export(model, x, tmp_path / "model", "pt2", weight_bits=4)
    monkeypatch.setattr("mcomp.deploy.formats.base.missing_packages", lambda name: ["ncnn", "pnnx"])
    with pytest.raises(BackendMissingError, match=r"pip install 'mcomp\[ncnn\]'$"):
        export(model, x, tmp_path / "model", "torchscript")


def test_a_stage_writes_every_format_and_hands_the_model_on(tmp_path: Path) -> None:
    model = Residual().eval()
    result = mcomp.stages.export(model, example_inputs=(images(2),), formats=["pt2", "torchscript"])
    assert {*result.files} == {"pt2.model.pt2", "torchscript.model.pt"}
    assert result.metrics["files_written"] == 2
    assert [row["format"] for row in result.details["exports"]] == ["pt2", "torchscript"]
    with torch.no_grad():
        assert torch.equal(result.model(images(2)), model(images(2)))


def test_the_stages_accuracy_is_that_of_the_file_that_predicts_worst(tmp_path: Path) -> None:
    data = mcomp.data.load("digits", image_size=8, limit=100)
    wide = Residual().eval()
    result = mcomp.stages.export(wide, data=data, formats=["onnx", "torchscript"], work_dir=tmp_path)
    rows = result.details["exports"]
    for row in rows:
        run = export_module.find_format(row["format"]).open((tmp_path / row["files"][0],))
        found = torch.cat([run(images) for images, _ in data.test.batches(64)]).argmax(1)
        truth = torch.cat([labels for _, labels in data.test.batches(64)])
        assert row["top1"] == pytest.approx(100 * (found == truth).double().mean().item())
    assert result.metrics["top1"] == min(row["top1"] for row in rows)
    assert result.metrics["agreement"] == min(row["agreement"] for row in rows)
    assert result.metrics["bytes_of"] == "2 formats"
    assert sum("the model's class on" in note for note in result.notes) == 2


def test_a_file_of_one_batch_size_is_measured_on_the_whole_split() -> None:
    called = []

    def run(x: torch.Tensor) -> torch.Tensor:
        called.append(len(x))
        return x.sum((2, 3)) * torch.arange(1, len(x) + 1)[:, None]

    x = images(3)
    assert torch.equal(_filled(run, 5)(x), run(x))
    assert called == [5, 3]
    assert torch.equal(_filled(run, 3)(x), run(x))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"formats": ["onnx"], "weight_bits": {"mnn": 4}}, "not among `formats`"),
        ({"formats": ["mnn"], "weight_bits": {"mnn": 5}}, "no weights in 5 bits; it has 8, 4, 2"),
        ({"formats": ["onnx", "onnx"]}, "twice"),
    ],
)
def test_the_stage_refuses_what_no_format_has(options: dict[str, object], said: str) -> None:
    from mcomp.stages.builtin.export import Export

    with pytest.raises(ValueError, match=said):
        Export.Options(**options)


def test_missing_packages_are_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.stages.builtin.export import Export

    monkeypatch.setattr("mcomp.stages.builtin.export.missing_packages", lambda name: ["ncnn"] if name == "ncnn" else [])
    options = Export.Options(formats=["onnx", "ncnn"])
    assert Export.preflight(nn.Identity(), options) == []
    assert Export.missing(options) == "the format `ncnn` needs ncnn (pip install 'mcomp[ncnn]')"
