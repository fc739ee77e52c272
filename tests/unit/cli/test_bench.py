from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import mcomp
from mcomp.cli.main import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bench")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    made = {name: mcomp.deploy.export(model, torch.randn(2, 3, 8, 8), folder / name, name) for name in ("onnx", "pt2")}
    return {name: str(one.files[0]) for name, one in made.items()}


def test_files_are_timed_in_the_runtimes_that_take_them(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", files["onnx"], files["pt2"], "--rounds", "2", "--batch", "1", "--batch", "3", "--json"]
    assert main([*words, "--engine", "onnxruntime", "--engine", "torch"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [table["batch"] for table in found["tables"]] == [1, 3]
    for table in found["tables"]:
        assert [(row["name"], row["engine"]) for row in table["rows"]] == [
            ("onnx.onnx", "onnxruntime"), ("pt2.pt2", "torch"),
        ]  # fmt: skip
        assert table["rows"][0]["speedup"] == 1
        assert all(row["median_ms"] > 0 and row["p95_ms"] >= row["median_ms"] for row in table["rows"])
        assert table["rows"][0]["bytes"] == Path(files["onnx"]).stat().st_size
    assert found["threads"] == 1


@pytest.mark.parametrize(
    ("terminal", "words", "shown"), [(True, [], True), (True, ["--json"], False), (False, [], False)]
)
def test_progress_is_for_a_terminal_and_not_beside_json(
    terminal: bool,
    words: list[str],
    shown: bool,
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert main(["bench", files["onnx"], "--engine", "onnxruntime", "--rounds", "1", "--batch", "1", *words]) == 0
    assert ("round 1 of 1" in capsys.readouterr().err) == shown


def test_people_get_a_table_with_batch_and_threads(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", files["onnx"], "--engine", "onnxruntime", "--rounds", "1", "--batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "batch 2, threads 1, 1 rounds" in printed
    assert "onnxruntime" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.onnx"], "no file `absent.onnx`"),
        (["weights.pth"], "no deployed file"),
        (["FILE", "--engine", "ncnn"], "there are onnxruntime"),
        (["FILE", "--engine", "tensorrt"], "it runs in onnxruntime, openvino"),
        (["FILE", "--batch", "0"], "no batch"),
        (["FILE", "--rounds", "0"], "measures nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], said: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *[files["onnx"] if word == "FILE" else word for word in words]]) == 2
    printed = capsys.readouterr().err
    assert "error[MC449]" in printed
    assert said in printed


def test_a_file_of_another_shape_is_named_and_not_a_bug_of_ours(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = mcomp.deploy.export(nn.Flatten(), torch.randn(2, 3, 5), tmp_path / "other", "onnx").files[0]
    assert main(["bench", files["onnx"], str(other), "--engine", "onnxruntime", "--rounds", "1"]) == 2
    assert "`other.onnx` does not take a batch" in capsys.readouterr().err


def test_a_fixed_batch_is_not_called_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    made = mcomp.deploy.export(nn.Flatten(), torch.randn(2, 3, 5), tmp_path / "model", "onnx").files[0]
    model = onnx.load(made)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, made)
    assert main(["bench", str(made), "--engine", "onnxruntime", "--batch", "3", "--rounds", "1"]) == 2
    assert "takes batches of 2, not of 3" in capsys.readouterr().err


def test_bytes_are_those_of_the_file_and_no_neighbour_s(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(files["onnx"])
    path.with_suffix(".bin").write_bytes(bytes(5000))
    assert main(["bench", str(path), "--engine", "onnxruntime", "--batch", "1", "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["rows"][0]["bytes"] == path.stat().st_size
