from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.engine import Engine
from mcomp.errors import PreflightError, UsageError
from mcomp.recipe import Recipe

HEAD = """\
version: 1
name: p
model: {name: lenet}
data: {name: synthetic, samples: 40}
stages:
"""
NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        out = self.head(x.mean((2, 3)))
        return WHAT


def build(num_classes):
    return Net(num_classes)
"""


@pytest.mark.parametrize(
    ("stage", "path", "meant"),
    [
        ("prune: {ratio: 0.4, ignore: [conv11]}", "stages.prune.ignore", "conv1"),
        ("quantize: {epochs: 0, skip: [conf2]}", "stages.quantize.skip", "conv2"),
        ("quantize: {epochs: 0, overrides: {conf2: {w_bits: 4}}}", "stages.quantize.overrides", "conv2"),
        ("prune: {ratio: 0.4, ignore: [bn1]}", "stages.prune.ignore", "conv1"),
    ],
)
def test_a_pattern_that_names_no_layer_is_found_before_anything_is_trained(
    stage: str, path: str, meant: str, tmp_path: Path
) -> None:
    recipe = Recipe.from_text(f"{HEAD}  - train: {{epochs: 1}}\n  - {stage}\n")
    with pytest.raises(PreflightError, match=f"`{path}`") as error:
        Engine(tmp_path / "store").apply(recipe)
    assert error.value.code == "MC263"
    assert f"`{meant}`" in error.value.hint
    assert not (tmp_path / "store" / "runs").exists()


@pytest.mark.parametrize(
    ("what", "message", "hint"),
    [
        ("out, x", "returns a tuple of 2, not one tensor", "let `forward` return one tensor"),
        ("x", r"returns a tensor of shape \(2, 3, ", "let `forward` return one tensor"),
        ("out[:, :2]", "gives 2 scores per image", "called with `num_classes=10`: make so many outputs"),
    ],
)
def test_what_is_no_score_per_class_is_told_as_what_it_is(what: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET.replace("WHAT", what))
    text = HEAD.replace("name: lenet", '"name": "net.py:build"') + "  - evaluate\n"
    recipe = Recipe.from_text(text, trust=True, base_dir=tmp_path)
    with pytest.raises(PreflightError, match=message) as error:
        Engine(tmp_path / "store").apply(recipe)
    assert error.value.code == "MC261"
    assert hint in error.value.hint


def test_the_engine_takes_the_path_of_a_recipe_and_refuses_what_is_none(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(HEAD + "  - evaluate\n")
    engine = Engine(tmp_path / "store")
    for path in (file, str(file)):
        assert engine.plan(path)["evaluate"].status == "run"
        assert [plan["evaluate"].status for plan in engine.plans(path)] == ["run"]
    assert engine.apply(file).ok
    for call in (engine.plan, engine.plans, engine.apply, engine.sweep):
        with pytest.raises(UsageError, match="a recipe is wanted, got dict") as error:
            call({"version": 1})  # type: ignore[arg-type]
        assert error.value.code == "MC278"


FREE = """\
from torch import nn


def build(SIGNATURE):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12))
"""


@pytest.mark.parametrize(
    ("signature", "options", "hint"),
    [
        ("width=8", "", "`build` has no argument `num_classes`: write `def build(num_classes)`"),
        ("num_classes=12", "", "it was called with `num_classes=10`"),
        ("num_classes", ", num_classes: 12", "set `model.num_classes: 10`, or leave it out"),
    ],
)
def test_more_outputs_than_classes_are_refused_before_the_training_that_would_refuse_them(
    signature: str, options: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(FREE.replace("SIGNATURE", signature))
    head = HEAD.replace("{name: lenet}", f'{{name: "net.py:build"{options}}}')
    recipe = Recipe.from_text(f"{head}  - evaluate\n  - train: {{epochs: 1}}\n", trust=True, base_dir=tmp_path)
    with pytest.raises(PreflightError, match="gives 12 scores per image") as error:
        Engine(tmp_path / "store").apply(recipe)
    assert error.value.code == "MC261"
    assert hint in error.value.hint
    assert (
        Engine(tmp_path / "store")
        .apply(Recipe.from_text(f"{head}  - evaluate\n", trust=True, base_dir=tmp_path))
        .status
        == "ok"
    )  # enough for measuring


def test_a_layer_that_patterns_of_keep_and_prune_match_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    stage = "prune: {ratio: 0.3, keep: {conv1: 0.5}, prune: {'conv*': 0.5}}"
    recipe = Recipe.from_text(f"{HEAD}  - train: {{epochs: 1}}\n  - {stage}\n")
    with pytest.raises(PreflightError, match=r"layer `conv1` is matched by `keep` \(`conv1`\) and by `prune`") as error:
        Engine(tmp_path / "store").apply(recipe)
    assert error.value.code == "MC263"
    assert not (tmp_path / "store" / "runs").exists()


def test_a_layer_that_is_to_keep_more_than_it_has_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = Recipe.from_text(f"{HEAD}  - train: {{epochs: 1}}\n  - prune: {{keep: {{conv1: 999}}}}\n")
    with pytest.raises(PreflightError, match="`conv1` is to keep 999 channels and has") as error:
        Engine(tmp_path / "store").apply(recipe)
    assert error.value.code == "MC263"
    assert "`stages.prune.keep.conv1`" in error.value.message
