"""A stranger's network and data, in files of their own, through the whole line without editing mcomp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import run_mcomp

NET = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Net(nn.Module):
    def __init__(self, num_classes, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.block = Block(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def build(num_classes, width=16):
    return Net(num_classes, width)
"""

ARRAYS = """\
import numpy


def build():
    rng = numpy.random.default_rng(0)
    images, labels = [], []
    for index in range(120):
        label = index % 3
        image = rng.integers(0, 60, (12, 12, 3), dtype=numpy.uint8)
        image[:, :, label] += 150
        images.append(image)
        labels.append(label)
    return {"train": (images, labels)}
"""

RECIPE = """\
version: 1
name: own
model: {{name: "net.py:build", width: 16}}
data: {data}
stages:
  - train: {{epochs: 3}}
  - quantize: {{epochs: 1}}
  - bn_fuse
  - onnx_int8
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "arrays.py").write_text(ARRAYS)
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(["red", "green", "blue"]):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(40):
            pixels = torch.randint(0, 80, (20, 24, 3), generator=generator, dtype=torch.uint8)
            pixels[:, :, label] += 120
            Image.fromarray(pixels.numpy()).save(folder / f"{index}.jpg")
    return tmp_path


@pytest.mark.parametrize("data", ["{name: image_folder, root: photos, image_size: 16}", '{name: "arrays.py:build"}'])
def test_a_residual_net_goes_from_training_to_an_int8_file(data: str, place: Path) -> None:
    (place / "own.yaml").write_text(RECIPE.format(data=data))
    done = run_mcomp("apply", "own.yaml", "--trust", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    stages = {stage["id"]: stage["metrics"] for stage in json.loads(done.stdout)["stages"]}
    assert stages["train"]["top1"] > 90
    assert stages["onnx_int8"]["agreement"] >= 95
    assert stages["onnx_int8"]["bytes"] < stages["onnx_int8"]["fp32_bytes"]
    again = run_mcomp("apply", "own.yaml", "--trust", "--json", cwd=place)
    assert {stage["status"] for stage in json.loads(again.stdout)["stages"]} == {"hit"}


def test_without_trust_no_local_file_is_run(place: Path) -> None:
    (place / "own.yaml").write_text(RECIPE.format(data='{name: "arrays.py:build"}'))
    (place / "net.py").write_text("raise SystemExit('executed')")
    done = run_mcomp("apply", "own.yaml", cwd=place)
    assert done.returncode == 3
    assert "--trust" in done.stderr
    assert "executed" not in done.stderr


def test_an_edited_model_file_is_a_miss(place: Path) -> None:
    (place / "own.yaml").write_text(RECIPE.format(data='{name: "arrays.py:build"}').partition("  - quantize")[0])
    assert run_mcomp("apply", "own.yaml", "--trust", cwd=place).returncode == 0
    (place / "net.py").write_text("# a comment changes nothing\n" + NET)
    statuses = json.loads(run_mcomp("plan", "own.yaml", "--trust", "--json", cwd=place).stdout)["stages"]
    assert [stage["status"] for stage in statuses] == ["hit"]
    (place / "net.py").write_text(NET.replace("3, padding=1)", "5, padding=2)"))
    statuses = json.loads(run_mcomp("plan", "own.yaml", "--trust", "--json", cwd=place).stdout)["stages"]
    assert [stage["status"] for stage in statuses] == ["run"]


def test_a_residual_net_is_pruned_exactly(place: Path) -> None:
    recipe = RECIPE.format(data='{name: "arrays.py:build"}').replace(
        "  - quantize: {epochs: 1}", "  - prune: {ratio: 0.5}"
    )
    (place / "own.yaml").write_text(recipe.partition("  - bn_fuse")[0])
    done = run_mcomp("apply", "own.yaml", "--trust", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    stages = {stage["id"]: stage["metrics"] for stage in json.loads(done.stdout)["stages"]}
    assert stages["prune"]["params"] < stages["train"]["params"]
    assert stages["prune"]["max_error"] <= 1e-5


def test_the_shipped_custom_stage_runs(tmp_path: Path) -> None:
    from tests.conftest import ROOT

    recipe = ROOT / "recipes" / "custom_stage" / "recipe.yaml"
    done = run_mcomp("apply", str(recipe), "--trust", "--json", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    stages = {stage["id"]: stage["metrics"] for stage in json.loads(done.stdout)["stages"]}
    assert stages["clip_weights"]["clipped"] > 0


def test_a_comment_in_the_model_s_file_is_not_spoken_of(place: Path) -> None:
    data = '{name: "arrays.py:build"}'
    (place / "own.yaml").write_text(RECIPE.format(data=data).partition("  - quantize")[0].replace("3}", "1}"))
    assert run_mcomp("apply", "own.yaml", "--trust", cwd=place).returncode == 0
    (place / "net.py").write_text("# a comment changes nothing\n" + NET)
    with (place / "own.yaml").open("a") as file:
        file.write("  - evaluate\n")
    done = run_mcomp("apply", "own.yaml", "--trust", cwd=place)
    assert done.returncode == 0
    assert "was changed" not in done.stdout + done.stderr
