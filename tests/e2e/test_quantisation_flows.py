"""Recipes of the quantisation flows, run as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, run_mcomp

PROGRESSIVE = ROOT / "recipes" / "nin_progressive.yaml"


def applied(recipe: Path, store: Path, *changes: str) -> dict[str, dict[str, Any]]:
    words = [word for change in changes for word in ("--set", change)]
    done = run_mcomp("apply", str(recipe), "--store", str(store), "--json", *words)
    assert done.returncode == 0, done.stderr
    return {stage["id"]: stage for stage in json.loads(done.stdout)["stages"]}


def test_bits_go_down_in_one_recipe_and_each_step_starts_from_the_one_before(tmp_path: Path) -> None:
    ids = ("w8", "w4", "w2", "ternary", "binary")
    short = [f"stages.{name}.epochs=1" for name in ids]
    stages = applied(PROGRESSIVE, tmp_path / "store", *short, "stages.binary.gates=[]", "stages.ternary.gates=[]")
    assert stages["binary"]["metrics"]["top1"] > 80
    # calibrated from latent weights that were trained at more bits: near what those reached
    assert stages["w4"]["metrics"]["top1_before_training"] > 90
    again = applied(PROGRESSIVE, tmp_path / "store", *short, "stages.binary.gates=[]", "stages.ternary.gates=[]")
    assert {stage["status"] for stage in again.values()} == {"hit"}


def test_integers_cannot_be_quantised_anew(tmp_path: Path) -> None:
    recipe = tmp_path / "late.yaml"
    recipe.write_text(
        "version: 1\nname: late\nmodel: {name: lenet}\ndata: {name: digits}\n"
        "stages:\n  - quantize\n  - bn_fuse\n  - quantize: {w_bits: 4}\n"
    )
    done = run_mcomp("validate", str(recipe))
    assert done.returncode == 3
    assert "late.yaml:8:5" in done.stderr
    assert "bn_fuse" in done.stderr


def test_the_teacher_is_part_of_what_a_stage_is_computed_from(tmp_path: Path) -> None:
    recipe, store = tmp_path / "taught.yaml", tmp_path / "store"
    recipe.write_text(
        "version: 1\nname: taught\nmodel: {name: lenet}\n"
        "data: {name: synthetic, num_classes: 3, samples: 90, image_size: 12}\n"
        "stages:\n  - train: {epochs: 1}\n  - finetune: {epochs: 1}\n"
        "  - quantize: {w_bits: 2, epochs: 1, teacher: train}\n  - qaft: {epochs: 1, teacher: finetune}\n"
    )
    first = applied(recipe, store)
    assert {stage["status"] for stage in first.values()} == {"run"}
    other = applied(recipe, store, "stages.quantize.teacher=finetune")
    assert [other[name]["status"] for name in ("train", "finetune", "quantize", "qaft")] == ["hit", "hit", "run", "run"]
    assert other["quantize"]["artifact"] != first["quantize"]["artifact"]
    again = applied(recipe, store)
    assert {stage["status"] for stage in again.values()} == {"hit"}


def test_a_network_is_quantised_without_training_and_delivered(tmp_path: Path) -> None:
    recipe = tmp_path / "ptq.yaml"
    recipe.write_text(
        "version: 1\nname: ptq\nmodel: {name: lenet}\ndata: {name: digits, image_size: 16}\nstages:\n"
        "  - train: {epochs: 2}\n"
        "  - calibrate: {w_bits: 4, equalize: true, bias_correction: true,\n"
        "                adaround: {iterations: 20}, reestimate_bn: 2}\n"
        "  - bn_fuse\n  - onnx_int8\n"
    )
    stages = applied(recipe, tmp_path / "store")
    assert stages["calibrate"]["metrics"]["top1"] > stages["train"]["metrics"]["top1"] - 5
    # 8 bits for what layers make, where the file's kernels end in integers, move a few of 360 images
    assert abs(stages["onnx_int8"]["metrics"]["top1"] - stages["bn_fuse"]["metrics"]["top1"]) <= 1
    assert stages["onnx_int8"]["metrics"]["agreement"] >= 99
