"""The folder that other processes make candidates from holds all that they need, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mcomp
from mcomp.errors import StageError, StoreError, UsageError
from mcomp.search.study import Task
from mcomp.stages.searching.setup import MODEL, SETUP, TENSORS, SearchSetup
from tests.unit.search.networks import Plain, images, seeded

LABELS = torch.arange(24) % 3


def setup(model: torch.nn.Module | None = None) -> SearchSetup:
    torch.manual_seed(2)
    return SearchSetup(
        model or mcomp.models.build("lenet", num_classes=3, in_shape=(3, 12, 12)).eval(),
        (images(),),
        [images(12, 5)],
        [LABELS[:12]],
        images(24, 6),
        LABELS,
        [("features.0", "keep"), ("features.0", "w_bits")],
        {"regular": 2, "importance": "random", "min_channels": 1, "ignore": [], "seed": 5},
        {"scheme": "lsq"},
        study="0123",
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    setup().write(tmp_path / "setup")
    return tmp_path / "setup"


def test_a_candidate_has_the_same_figure_from_the_folder_as_in_memory(written: Path) -> None:
    there = SearchSetup.read(written)
    assert (there.study, there.genes, there.pruning) == ("0123", setup().genes, setup().pruning)
    one, other = setup().evaluator(), there.evaluator()
    named = next(iter(one.fitness.pruning.layers))  # type: ignore[union-attr]
    for evaluate in (one, other):
        evaluate.genes = [(named, "keep"), (named, "w_bits")]
    tasks = [Task(number, level, (0.5, 3)) for number, level in enumerate(("proxy", "full"))]
    found = [one(task) for task in tasks]
    assert found == [other(task) for task in tasks]
    assert all(trial.fitness is not None for trial in found)


def test_a_folder_is_written_anew_under_those_who_read_it(written: Path) -> None:
    before = SearchSetup.read(written)
    first = before.images.clone()
    changed = setup()
    changed.images = changed.images + 1
    changed.write(written)
    assert torch.equal(before.images, first)
    assert torch.equal(SearchSetup.read(written).images, first + 1)


def test_a_model_made_by_hand_cannot_be_built_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        setup(seeded(Plain)).write(tmp_path / "setup")
    assert caught.value.code == "MC491"
    assert not (tmp_path / "setup").exists()


@pytest.mark.parametrize("file", [SETUP, TENSORS, MODEL])
def test_a_folder_that_lacks_a_part_is_refused(written: Path, file: str) -> None:
    (written / file).rename(written / "elsewhere")
    with pytest.raises(StoreError if file == MODEL else UsageError, match=file):
        SearchSetup.read(written)


@pytest.mark.parametrize(
    ("file", "text"), [(SETUP, "{"), (SETUP, "[1]"), (SETUP, '{"format": 99}'), (TENSORS, ""), (TENSORS, "no tensors")]
)
def test_a_damaged_folder_and_one_of_another_version_are_refused(written: Path, file: str, text: str) -> None:
    (written / file).write_text(text)
    with pytest.raises(UsageError) as caught:
        SearchSetup.read(written)
    assert caught.value.code == "MC492"


def test_what_is_written_is_plain_json(written: Path) -> None:
    held = json.loads((written / SETUP).read_text())
    assert held["genes"] == [["features.0", "keep"], ["features.0", "w_bits"]]
    assert held["base_dir"] is None


OWN_NET = """
from torch import nn

def make(num_classes=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, num_classes))
"""


def of_an_own_file(recipe: Path, name: str) -> SearchSetup:
    file = recipe / name
    recipe.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OWN_NET)
    model = mcomp.models.build(f"{name}:make", num_classes=3, in_shape=(3, 12, 12), base_dir=recipe, trust=True)
    found = setup(model.eval())
    found.base_dir = recipe
    return found


@pytest.mark.parametrize("name", ["net.py", "nets/net.py", "../nets/net.py", "nets/../../net.py"])
def test_a_file_of_one_s_own_travels_with_the_setup(tmp_path: Path, name: str) -> None:
    made = of_an_own_file(tmp_path / "here" / "recipe", name)
    made.write(tmp_path / "setup")
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "setup").rename(there / "setup")
    (tmp_path / "here").rename(tmp_path / "gone")
    with pytest.raises(StoreError, match="your own code") as caught:
        SearchSetup.read(there / "setup")
    assert caught.value.code == "MC317"
    found = SearchSetup.read(there / "setup", trust=True)
    assert torch.equal(found.model(images()), made.model(images()))
    assert [file.name for file in there.iterdir()] == ["setup"]


def test_the_recipe_s_own_file_goes_before_its_copy(tmp_path: Path) -> None:
    of_an_own_file(tmp_path / "recipe", "net.py").write(tmp_path / "setup")
    (tmp_path / "setup" / "own" / "net.py").write_text("raise AssertionError")
    assert SearchSetup.read(tmp_path / "setup", trust=True).base_dir == tmp_path / "recipe"


def test_a_file_named_by_an_absolute_path_does_not_travel(tmp_path: Path) -> None:
    of_an_own_file(tmp_path / "recipe", str(tmp_path / "net.py")).write(tmp_path / "setup")
    (tmp_path / "net.py").unlink()
    with pytest.raises(StoreError, match="is missing"):
        SearchSetup.read(tmp_path / "setup", trust=True)
