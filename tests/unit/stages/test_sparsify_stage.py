"""The stage that masks single weights, as a recipe sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mcomp.stages
from mcomp.errors import UsageError
from mcomp.metrics import count
from mcomp.pruning import prune, sparsify
from mcomp.pruning.weight_masks import most_in_a_group
from mcomp.recipe import Recipe
from mcomp.recipe.traits import traits_after
from mcomp.stages import Surroundings, get
from tests.unit.training.toys import ToyData, toy_net

STAGE = get("sparsify")


def chosen(**options: Any) -> Any:
    return STAGE.Options(**options)


def test_dense_and_effective_macs_are_two_figures() -> None:
    data = ToyData()
    dense = count(toy_net(), data.example_inputs).macs
    result = mcomp.stages.sparsify(toy_net(), data, ratio=0.5, scope="per_layer")  # type: ignore[arg-type]
    assert result.metrics["macs"] == dense
    assert result.metrics["effective_macs"] == dense // 2
    assert result.metrics["sparsity"] == 50.0
    assert {row["layer"]: row["sparsity"] for row in result.details["layers"]} == {"0": 50.0, "6": 50.0}


def test_a_block_of_one_weight_is_unstructured() -> None:
    data = ToyData()
    single = mcomp.stages.sparsify(toy_net(), data, ratio=0.4, pattern="block", block=[1, 1])  # type: ignore[arg-type]
    plain = mcomp.stages.sparsify(toy_net(), data, ratio=0.4)  # type: ignore[arg-type]
    pairs = zip(single.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"ratio": 0.5, "pattern": "2:4"},
        {"pattern": "4:2"},
        {"pattern": "2:4:8"},
        {"pattern": "-1:4"},
        {"pattern": "12345:99999"},
        {"pattern": "dense"},
        {"ratio": 0.5, "block": [4]},
        {"ratio": 0.5, "block": [0, 4]},
        {"ratio": 1.0},
    ],
)
def test_options_that_contradict_one_another_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        mcomp.stages.sparsify(toy_net(), ToyData(), **wrong)  # type: ignore[arg-type]


def test_a_pattern_that_pruning_would_break_later_is_warned_of() -> None:
    later, earlier = Surroundings(after=("finetune", "prune")), Surroundings(before=("prune",))
    (found,) = STAGE.check(chosen(pattern="2:4"), later)
    assert (found.severity, found.option) == ("warning", ("pattern",))
    assert STAGE.check(chosen(pattern="2:4"), earlier) == []
    assert STAGE.check(chosen(ratio=0.5), later) == []


def test_that_warning_stands_at_the_pattern_and_knows_branches() -> None:
    head = "version: 1\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n  - train\n"
    later = '  - sparsify: {pattern: "2:4"}\n  - finetune\n  - prune: {ratio: 0.3, importance: l1}\n'
    (found,) = Recipe.from_text(head + later).warnings
    assert (found.code, found.line, found.column) == ("MC120", 6, 25)
    assert Recipe.from_text(f"{head}{later}    from: train\n").warnings == []


def test_pruning_breaks_a_pattern_and_nothing_but_its_places() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    masked = sparsify(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)), (x,), pattern="2:4").model
    pruned = prune(masked, (x,), ratio=0.5, importance="l1", regular=4)
    before, after = (model[2].weight for model in (masked, pruned.model))  # type: ignore[index]
    kept = pruned.kept["0"]
    assert torch.equal((after == 0), (before == 0)[:, kept])
    assert most_in_a_group(after, 4) > most_in_a_group(before, 4) == 2


def test_a_pattern_of_ignore_that_names_no_layer_is_found_before_anything_runs() -> None:
    (found,) = STAGE.preflight(toy_net(), chosen(ratio=0.5, ignore=["classifier"]))
    assert found.option == ("ignore",)
    assert STAGE.preflight(toy_net(), chosen(ratio=0.5, ignore=["6"])) == []


def test_a_masked_model_is_told_from_its_surgery_log() -> None:
    assert traits_after(["sparsify"]) == {"float", "bn", "masked"}


def test_finetuning_behind_it_reports_the_macs_without_its_zeros() -> None:
    data: Any = ToyData()
    sparse = mcomp.stages.sparsify(toy_net(), data, ratio=0.5)
    tuned = mcomp.stages.finetune(sparse.model, data, epochs=1)
    assert tuned.metrics["effective_macs"] == sparse.metrics["effective_macs"]
    assert "effective_macs" not in mcomp.stages.finetune(toy_net(), data, epochs=1).metrics


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"pattern": "2:4", "block": [1, 4]}, ["block"]),
        ({"ratio": 0.5, "block": [2, 8]}, ["block"]),
        ({"pattern": "2:4", "scope": "global"}, ["scope"]),
        ({"ratio": 0.5, "pattern": "block", "block": [2, 8], "scope": "per_layer"}, []),
        ({"ratio": 0.5}, []),
    ],
)
def test_an_option_that_does_nothing_is_warned_of(options: dict[str, Any], idle: list[str]) -> None:
    found = STAGE.check(chosen(**options), Surroundings())
    assert [(one.option, one.severity) for one in found] == [((name,), "warning") for name in idle]


def test_what_finetuning_leaves_of_the_macs_can_be_gated() -> None:
    gate = "{metric: effective_macs, max_ratio: 1.0, vs: sparsify}"
    recipe = Recipe.from_text(
        "version: 1\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n  - sparsify: {ratio: 0.5}\n"
        f"  - finetune: {{epochs: 1}}\n    gates: [{gate}]\n"
    )
    assert [one.metric for one in recipe.stages[1].gates] == ["effective_macs"]
