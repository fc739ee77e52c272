from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mcomp.artifact import save_model
from mcomp.cli.main import main
from mcomp.metrics import count
from mcomp.models import build

USERS_OWN = """
from torch import nn

def make(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))
"""


def stats(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["stats", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_built_in_model_is_counted_at_the_size_it_was_published_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = stats(capsys, "nin")
    cost = count(build("nin"), (torch.zeros(1, 3, 32, 32),))
    assert (found["inputs"], found["params"], found["macs"]) == ([[3, 32, 32]], cost.params, cost.macs)


def test_options_and_input_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = stats(capsys, "lenet", "--set", "width=2", "--set", "num_classes=3", "--input", "1x8x8")
    cost = count(build("lenet", num_classes=3, width=2, in_channels=1), (torch.zeros(1, 1, 8, 8),))
    assert (found["params"], found["macs"]) == (cost.params, cost.macs)


def test_bits_make_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    whole, quarter = (stats(capsys, "lenet", *words) for words in ([], ["--w-bits", "8", "--a-bits", "8"]))
    assert whole["peak_activation_bytes"] == 4 * quarter["peak_activation_bytes"]  # type: ignore[operator]
    small = sum(p.numel() for p in build("lenet").parameters() if p.ndim == 1)
    assert quarter["weight_bytes"] == whole["params"] + 3 * small  # type: ignore[operator]


def test_an_artifact_knows_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("lenet", width=0.5)
    save_model(model, tmp_path / "model", (torch.zeros(2, 3, 12, 12),))
    cost = count(model, (torch.zeros(1, 3, 12, 12),))
    for place in (tmp_path, tmp_path / "model" / "manifest.json"):
        found = stats(capsys, str(place))
        assert (found["inputs"], found["params"], found["macs"]) == ([[3, 12, 12]], cost.params, cost.macs)
    assert stats(capsys, str(tmp_path), "--input", "3x24x24")["inputs"] == [[3, 24, 24]]


def test_a_network_of_ones_own_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(USERS_OWN)
    found = stats(capsys, "net.py:make", "--trust", "--input", "1x6x6", "--set", "width=5")
    assert (found["params"], found["macs"]) == (5 * 9 + 5 + 5 * 10 + 10, 16 * 5 * 9 + 5 * 10)


def test_people_get_a_row_per_layer_and_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "lenet", "--w-bits", "4"]) == 0
    printed = capsys.readouterr().out
    assert "lenet, one sample of 3x32x32, weights in 4 bits" in printed
    assert [name in printed for name in ("conv1", "bn2", "fc3", "relu1")] == [True, True, True, False]
    params, macs = count(build("lenet"), (torch.zeros(1, 3, 32, 32),)).__dict__.values()
    assert f"{params:,} parameters, {macs:,} MACs" in printed


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nni"], "MC230", "did you mean `nin`?"),
        (["net.py:make"], "MC232", "--trust"),
        (["net.py:make", "--trust"], "MC247", "does not say what it takes"),
        (["net.py:make", "--trust", "--input", "3x6x6"], "MC247", "does not take an input of 3x6x6"),
        (["torchvision:vit_b_16", "--input", "3x100x100"], "MC247", "does not take an input of 3x100x100"),
        (["lenet", "--input", "3,8,8"], "MC247", "is not the shape of a sample"),
        (["lenet", "--set", "width"], "MC247", "sets nothing"),
        (["lenet", "--set", "depth=3"], "MC231", "depth"),
        (["lenet", "--w-bits", "0"], "MC247", "`--w-bits 0`"),
        (["saved", "--set", "width=2"], "MC247", "another network"),
        (["."], "MC311", "artifact"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    words: list[str],
    code: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(USERS_OWN)
    if "saved" in words:
        save_model(build("lenet", width=0.5), tmp_path / "saved", (torch.zeros(2, 3, 8, 8),))
    assert main(["stats", *words]) != 0
    printed = capsys.readouterr().err
    assert f"error[{code}]" in printed
    assert said in printed
