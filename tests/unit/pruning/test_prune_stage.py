"""The `prune` stage as an adapter."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import mcomp
from mcomp.data import Data
from mcomp.errors import RecipeError, StageError, UsageError
from mcomp.models import nin, nin_gc
from mcomp.recipe import Recipe
from mcomp.stages import Forecast, Surroundings, get
from mcomp.stages.base import StageContext
from tests.unit.pruning.pruning_nets import digest, images, seeded

Prune = get("prune")


def test_it_prunes_without_data_and_reports_figures_and_a_table(tmp_path: Path) -> None:
    ctx = StageContext(seeded(nin_gc(width=0.25)), (images(16),), None, tmp_path)
    result = Prune().run(ctx, Prune.Options(ratio=0.4, regular=8))
    assert set(result.metrics) == {"params", "macs", "channels_kept", "max_error"}
    assert 40 < result.metrics["channels_kept"] < 80  # type: ignore[operator]
    assert result.details["layers"][-1] == {"layer": "features.10.conv", "before": 10, "after": 10}
    assert all(row["after"] % 8 == 0 for row in result.details["layers"][:-1])
    assert result.notes == ["left whole: `features.10.conv`: is an output of the network"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0.0}, "greater than 0"),
        ({"ratio": 1.0}, "less than 1"),
        ({"ratio": float("nan")}, "finite"),
        ({"ratio": 0.5, "regular": 0}, "greater than or equal to 1"),
        ({"regular": 8}, "nothing says how much goes"),
        ({"ratio": None, "keep": {}}, "nothing says how much goes; write one of `ratio: 0.5`"),
        ({"ratio": 0.5, "macs": 0.3}, "`ratio` and `macs` exclude one another"),
        ({"params": 0.5, "latency_ms": 3.0}, "`params` and `latency_ms` exclude one another"),
        ({"macs": "3X"}, "'3X' is no quantity; write a share such as 0.3, or a count such as `250K`"),
        ({"params": 0.0}, "0 is not above 0"),
        ({"keep": {"a": 1.5}}, "keep.a\n  1.5 is neither a share in (0, 1] nor a count"),
        ({"keep": [0.5, 7]}, "keep.1\n  7 is neither a share"),
        ({"prune": {"a": 1.0}}, "prune.a\n  1.0 is no share in [0, 1)"),
        ({"keep": [0.5], "prune": [0.5]}, "`keep` and `prune` exclude one another where both are lists"),
        ({"ratio": 0.5, "steps": 3}, "`steps` above 1 and `finetune` need one another"),
        ({"ratio": 0.5, "finetune": {"epochs": 1}}, "`steps` above 1 and `finetune` need one another"),
        ({"ratio": 0.5, "steps": 2, "finetune": {"epochs": 0}}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Prune.Options(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize("entry", ["prune", "prune: {}", "prune: {regular: 8}"])
def test_a_stage_without_a_target_is_told_all_that_there_are(entry: str) -> None:
    targets = ", or one of `macs`, `params`, `latency_ms`, `keep`, `keep_file`, `prune` in its place"
    head = "version: 1\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(f"{head}  - {entry}\n")
    (fault,) = caught.value.diagnostics
    assert (fault.code, fault.line, fault.column) == ("MC105", 5, 5)
    assert fault.message == f"stage `prune` needs the option `ratio`{targets}"
    with pytest.raises(UsageError) as refused:
        mcomp.stages.prune(seeded(nin_gc(width=0.25)), example_inputs=images(16))
    assert (refused.value.code, refused.value.message) == ("MC274", fault.message)


@pytest.mark.parametrize(
    "options", [{"keep": {"a": 24}}, {"keep": {"a": 1.0, "b": 1}}, {"macs": 5_000_000}, {"prune": [0.5, 0.0]}]
)
def test_shares_counts_and_quantities_are_accepted(options: dict[str, Any]) -> None:
    Prune.Options(**options)


@pytest.mark.parametrize(
    ("regular", "after", "warnings"), [(8, "trt_int8", 1), (32, "trt_int8", 0), (8, "finetune", 0)]
)
def test_widths_that_int8_kernels_would_pad_are_warned_of(regular: int, after: str, warnings: int) -> None:
    found = Prune.check(Prune.Options(ratio=0.5, regular=regular), Surroundings(after=(after,)))
    assert [finding.severity for finding in found] == ["warning"] * warnings
    assert all("regular: 16" in finding.hint for finding in found)


def test_scores_from_gradients_take_training_images_and_repeat(data: Data) -> None:
    model = seeded(nin(width=0.125, num_classes=3))
    how = {"ratio": 0.4, "importance": "taylor", "score_batches": 2}
    first, again = (mcomp.stages.prune(model, data=data, seed=3, device="cpu", **how) for _ in range(2))
    assert digest(first.model) == digest(again.model)
    assert first.metrics["channels_kept"] < 70


def test_scores_from_gradients_without_data_are_refused() -> None:
    with pytest.raises(StageError) as caught:
        mcomp.stages.prune(seeded(nin_gc(width=0.25)), example_inputs=images(16), ratio=0.4, importance="hessian")
    assert caught.value.code == "MC401"


def test_batches_that_nobody_looks_at_are_warned_of() -> None:
    for importance, warnings in (("l1", 1), ("taylor", 0)):
        options = Prune.Options(ratio=0.5, importance=importance, score_batches=4)
        assert len(Prune.check(options, Surroundings())) == warnings


def test_patterns_of_every_list_are_held_against_the_model() -> None:
    options = Prune.Options(keep={"features.99.conv": 0.5}, prune={"features.0.*": 0.5, "stem": 0.1}, ignore=["x"])
    found = Prune.preflight(nin_gc(width=0.25), options)
    assert [finding.option for finding in found] == [("ignore",), ("keep",), ("prune",)]


class Sequencer(nn.Module):
    """Layers that call their weights by other names than ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.memory = nn.LSTM(16, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.memory(self.attention(x, x, x)[0])[0]
        return self.head(x[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        ("stem", True),
        ("attention.in_proj_weight", True),
        ("memory.weight_ih_l0", True),
        ("memory.*", True),
        ("attention*", True),
        ("memory", False),
        ("stem.weight", False),
        ("attention.in_proj_bias", False),
    ],
)
def test_the_names_that_are_known_before_anything_runs_are_those_that_pruning_knows(pattern: str, known: bool) -> None:
    model = Sequencer().eval()
    found = [*Prune.preflight(model, Prune.Options(ratio=0.3, ignore=[pattern], keep={pattern: 0.9}))]
    assert [finding.option for finding in found] == ([] if known else [("ignore",), ("keep",)])
    with contextlib.nullcontext() if known else pytest.raises(UsageError, match="matches no layer"):
        mcomp.stages.prune(model, example_inputs=torch.randn(2, 5, 6), ratio=0.3, importance="l1", ignore=[pattern])


def test_heads_go_whole_where_that_is_asked_for() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 3)).eval()
    how = {"example_inputs": torch.randn(2, 5, 6), "ratio": 0.5, "importance": "l1", "scope": "per_layer"}
    for heads in ("dims", "whole"):
        result = mcomp.stages.prune(model, heads=heads, **how)
        assert result.metrics["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("options", "known", "exact"),
    [
        ({"macs": 0.5}, True, True),
        ({"macs": 0.5}, False, None),
        ({"latency_ms": 1.0}, True, None),
        ({"ratio": 0.5, "importance": "taylor"}, True, False),
        ({"ratio": 0.5, "importance": "fpgm", "scope": "per_layer"}, False, True),
        ({"keep": {"features.*": 0.5}}, False, True),
        ({"ratio": 0.5, "scope": "isomorphic", "importance": "l2"}, False, False),
        ({"ratio": 0.5, "steps": 2, "finetune": {"epochs": 1}}, True, None),
    ],
    ids=str,
)
def test_a_forecast_says_what_is_known_and_no_more(
    options: dict[str, Any], known: bool, exact: bool | None, data: Data
) -> None:
    model = seeded(nin(width=0.25, num_classes=3))
    told = Prune.forecast(Forecast.of(model, data.example_inputs, weights_known=known), Prune.Options(**options))
    if exact is None:
        assert told.params is None
        return
    assert told.exact == exact
    result = mcomp.stages.prune(model, data=data, device="cpu", **options)
    assert told.params is not None
    assert told.macs is not None
    assert told.params[0] <= result.metrics["params"] <= told.params[1]
    assert told.macs[0] <= result.metrics["macs"] <= told.macs[1]
    assert (told.params[0] == told.params[1]) == exact


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=90, image_size=16)
