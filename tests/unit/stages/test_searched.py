"""What a search found is what later stages do, by its record or by its file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import mcomp
from mcomp.data import Data
from mcomp.errors import InterruptedRun, StageError, UsageError
from mcomp.metrics import count
from mcomp.quantization.quantizers import Quantizer
from mcomp.search.network_costs import Times
from mcomp.search.recorded import record_choice, recorded_choice, recorded_pruning
from mcomp.search.study import Trial
from mcomp.stages import StageContext, StageResult
from mcomp.stages.builtin.prune import Prune
from mcomp.stages.builtin.search import Search
from mcomp.stages.searched import keep_in, searched_bits, searched_pruning
from mcomp.stages.searching.outcome import Outcome, choice_in
from mcomp.stages.searching.run import SearchRun

OPTIONS: dict[str, Any] = {
    "candidates": 4,
    "population": 4,
    "w_bits": [2, 8],
    "keep": [0.3, 1.0],
    "regular": 8,
    "budgets": {"avg_bit_weights": 5, "macs": 0.6},
    "images": 20,
    "norm_batches": 1,
}
HOW = {"device": "cpu", "precision": "fp32", "seed": 3}


@dataclass
class Searched:
    """A model that a search has noted its choice on, and what the search handed on beside it."""

    model: nn.Module
    result: StageResult
    before: dict[str, Tensor]

    @property
    def best(self) -> Path:
        return self.result.files["best.yaml"]


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=90, image_size=12)


def fresh(data: Data) -> nn.Module:
    torch.manual_seed(4)
    # some of its widths are no multiple of 8
    return mcomp.models.build("nin", num_classes=3, width=0.1, in_shape=data.in_shape).eval()


@pytest.fixture(scope="module")
def searched(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    model = fresh(data)
    before = copy.deepcopy(model.state_dict())
    ctx = StageContext(model, data.example_inputs, data, tmp_path_factory.mktemp("search"), seed=3, stage_id="search")
    result = Search().run(ctx, Search.Options(**OPTIONS))
    return Searched(result.model, result, before)


def run(stage: Callable[..., Any], model: nn.Module, data: Data, **options: Any) -> nn.Module:
    found: nn.Module = stage(copy.deepcopy(model), data=data, **HOW, **options).model
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def widths(model: nn.Module) -> dict[str, int]:
    return {name: one.out_channels for name, one in model.named_modules() if isinstance(one, nn.Conv2d)}


def weight_bits(model: nn.Module) -> dict[str, int]:
    return {
        name.removesuffix(".weight_quantizer"): int(one.bits)
        for name, one in model.named_modules()
        if isinstance(one, Quantizer) and name.endswith(".weight_quantizer")
    }


def test_a_search_hands_on_the_model_as_it_was(searched: Searched) -> None:
    after = searched.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in searched.before.items())
    assert recorded_choice(searched.model) is not None


def test_the_channels_that_were_found_are_what_is_cut(searched: Searched, data: Data) -> None:
    pruned = run(mcomp.stages.prune, searched.model, data, keep="search")
    held = yaml.safe_load(searched.best.read_text())
    found, whole = widths(pruned), widths(searched.model)
    assert held["keep"]
    assert all(found[name] == pytest.approx(share * whole[name]) for name, share in held["keep"].items())
    assert all(found[name] % 8 == 0 for name in held["keep"])
    cost = count(pruned, data.example_inputs)
    assert cost.macs == pytest.approx(searched.result.metrics["chosen_macs"], abs=1)
    assert cost.params == pytest.approx(searched.result.metrics["chosen_params"], abs=1)
    assert cost.macs <= 0.6 * count(searched.model, data.example_inputs).macs


def test_the_bits_that_were_found_are_what_is_quantised(searched: Searched, data: Data) -> None:
    made = run(mcomp.stages.quantize, searched.model, data, bits="search", scheme="lsq", epochs=0)
    choice = recorded_choice(searched.model)
    assert choice is not None
    assert weight_bits(made) == {name: kinds["w_bits"] for name, kinds in choice.items() if "w_bits" in kinds}


def test_the_file_gives_the_network_that_the_record_gives(searched: Searched, data: Data) -> None:
    recorded = run(mcomp.stages.prune, searched.model, data, keep="search")
    filed = run(mcomp.stages.prune, fresh(data), data, keep_file=str(searched.best))
    assert widths(recorded) == widths(filed)
    assert same(recorded, filed)
    options = {"scheme": "lsq", "epochs": 0}
    one = run(mcomp.stages.quantize, recorded, data, bits="search", **options)
    other = run(mcomp.stages.quantize, filed, data, overrides_file=str(searched.best), **options)
    assert weight_bits(one) == weight_bits(other)
    assert same(one, other)


def test_what_the_recipe_says_wins_over_what_was_recorded(searched: Searched) -> None:
    taken = searched_pruning(searched.model, Prune.Options(keep="search"))
    assert (taken.regular, taken.importance, taken.min_channels) == (8, "l1", 1)
    told = searched_pruning(searched.model, Prune.Options(keep="search", regular=4, importance="l2"))
    assert (told.regular, told.importance, told.keep) == (4, "l2", taken.keep)
    assert searched_pruning(searched.model, kept := Prune.Options(keep={"a": 0.5})) is kept


def test_overrides_of_the_recipe_come_before_what_was_found(searched: Searched, data: Data) -> None:
    choice = recorded_choice(searched.model)
    assert choice is not None
    layer = next(name for name, kinds in choice.items() if "w_bits" in kinds)
    made = run(
        mcomp.stages.quantize,
        searched.model,
        data,
        bits="search",
        scheme="lsq",
        epochs=0,
        overrides={layer: {"w_bits": 13}},
    )
    assert weight_bits(made)[layer] == 13


def test_an_artifact_keeps_what_was_found(searched: Searched, data: Data, tmp_path: Path) -> None:
    mcomp.save_model(searched.model, tmp_path / "model", data.example_inputs)
    again = mcomp.load_model(tmp_path / "model")
    assert recorded_choice(again) == recorded_choice(searched.model)
    assert recorded_pruning(again) == recorded_pruning(searched.model)
    one = run(mcomp.stages.prune, again, data, keep="search")
    assert same(one, run(mcomp.stages.prune, searched.model, data, keep="search"))


def test_a_choice_that_keeps_every_channel_prunes_none(data: Data, tmp_path: Path) -> None:
    model = fresh(data)
    record_choice(model, {"features.0": {"keep": 1.0}}, pruning={"regular": 1, "importance": "l1", "shares": {}})
    assert widths(run(mcomp.stages.prune, model, data, keep="search")) == widths(model)
    (tmp_path / "best.yaml").write_text("overrides: {a: {w_bits: 4}}\nkeep: {}\n")
    filed = run(mcomp.stages.prune, model, data, keep_file=str(tmp_path / "best.yaml"), importance="l1")
    assert widths(filed) == widths(model)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (None, "no search has noted anything"),
        ({"features.0": {"w_bits": 4}}, "looked for w_bits only"),
    ],
)
def test_channels_that_no_search_found_cannot_be_cut(
    choice: dict[str, dict[str, float]] | None, message: str, data: Data
) -> None:
    model = fresh(data)
    if choice is not None:
        record_choice(model, choice)
    with pytest.raises(StageError) as caught:
        run(mcomp.stages.prune, model, data, keep="search")
    assert caught.value.code == "MC489"
    assert message in caught.value.message.replace("`", "")


def test_bits_that_no_search_found_cannot_be_had(data: Data) -> None:
    model = fresh(data)
    with pytest.raises(StageError) as caught:
        searched_bits(model)
    assert caught.value.code == "MC489"
    record_choice(model, {"features.0": {"keep": 0.5}})
    with pytest.raises(StageError, match="keep") as caught:
        searched_bits(model)
    assert "`w_bits`" in caught.value.hint
    assert searched_pruning(model, Prune.Options(keep="search")).keep == {"features.0": 0.5}


def test_a_layer_whose_name_looks_like_a_pattern_is_meant_itself(data: Data) -> None:
    model = fresh(data)
    record_choice(model, {"blocks.a[0]": {"w_bits": 3}, "b": {"keep": 0.5, "a_bits": 4}})
    assert searched_bits(model) == {"blocks.a[[]0]": {"w_bits": 3}, "b": {"a_bits": 4}}


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "keep: {a: -1}", "keep: {a: half}", "keep: {a: true}", "overrides: {a: {w_bits: 4}}"]
)
def test_a_file_without_channels_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "held.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        keep_in(tmp_path / "held.yaml")
    assert caught.value.code == "MC427"


def context(data: Data, folder: Path) -> StageContext:
    return StageContext(fresh(data), data.example_inputs, data, folder, seed=3, stage_id="search")


def test_another_search_begins_with_what_an_earlier_one_found(searched: Searched, data: Data, tmp_path: Path) -> None:
    """To the widths that it cut, rounded ones among them; what it does not search itself is left out."""
    chosen = recorded_choice(searched.model)
    assert chosen is not None
    again = SearchRun(context(data, tmp_path), Search.Options(**OPTIONS, start=str(searched.best)))
    first = again.study.optimizer.ask(1)[0].genome
    named = again.known.space.named(first)
    assert again.pruning is not None
    shares = {name: kinds["keep"] for name, kinds in named.items() if "keep" in kinds}
    wanted = {name: kinds["keep"] for name, kinds in chosen.items() if "keep" in kinds}
    assert again.pruning.widths(shares) == again.pruning.widths(wanted)
    assert all(named[name]["w_bits"] == kinds["w_bits"] for name, kinds in chosen.items() if "w_bits" in kinds)
    bits = {**OPTIONS, "keep": None, "budgets": {"avg_bit_weights": 5}, "start": str(searched.best)}
    fewer = SearchRun(context(data, tmp_path), Search.Options(**bits))
    assert {gene.kind for gene in fewer.known.space.genes} == {"w_bits"}


def test_every_width_that_is_written_is_read_back(data: Data, tmp_path: Path) -> None:
    told = SearchRun(context(data, tmp_path), Search.Options(**OPTIONS))
    known = told.known
    assert known.pruning is not None
    assert any(width % 8 for width in known.pruning.channels().values())
    for seed in range(6):
        genome = known.space.decode(torch.rand(len(known.space), generator=torch.Generator().manual_seed(seed)).numpy())
        outcome = Outcome(told.study, known, Trial(0, "full", genome, 50.0, 50.0, costs=known.costs_of(genome)))
        outcome.write(tmp_path)
        again = known.space.genome(choice_in(tmp_path / "best.yaml", known))
        assert known.costs_of(again) == known.costs_of(genome)


@pytest.mark.parametrize(
    "text", ["", "[1]", "costs: {macs: 3}", "overrides: {FIRST: {w_bits: four}}", "keep: {FIRST: true}"]
)
def test_a_start_that_is_no_choice_is_refused(text: str, data: Data, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(text.replace("FIRST", next(iter(widths(fresh(data))))))
    with pytest.raises(UsageError) as caught:
        SearchRun(context(data, tmp_path), Search.Options(**OPTIONS, start=str(tmp_path / "best.yaml")))
    assert caught.value.code == "MC499"


def test_greedy_is_refused_as_many_candidates_as_it_only_measures_with(data: Data, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        SearchRun(context(data, tmp_path), Search.Options(**OPTIONS, algorithm="greedy"))
    assert caught.value.code == "MC497"
    enough = int(caught.value.hint.split()[3])
    SearchRun(context(data, tmp_path), Search.Options(**{**OPTIONS, "candidates": enough}, algorithm="greedy"))


def test_two_searches_are_one_study_only_with_the_same_network_and_images(data: Data, tmp_path: Path) -> None:
    def study(change: Callable[[StageContext], None] = lambda ctx: None, **options: Any) -> str:
        ctx = context(data, tmp_path)
        change(ctx)
        return SearchRun(ctx, Search.Options(**{**OPTIONS, **options})).setup.study

    def nudge(ctx: StageContext) -> None:
        with torch.no_grad():
            next(ctx.model.parameters()).add_(1e-3)

    first = study()
    assert first == study(workers=3, study="elsewhere.journal")
    others = {study(nudge), study(images=19), study(regular=4), study(budgets={"macs": 0.5})}
    assert first not in others
    assert len(others) == 4


def test_a_search_under_a_latency_goes_on_with_the_times_it_began_with(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured anew they would be others, and so would every candidate."""
    times = iter([8.0, 4.0, 9.0, 3.0])
    monkeypatch.setattr("mcomp.metrics.model_latency", lambda *_, **__: type("Found", (), {"median_ms": next(times)})())
    options = Search.Options(**{**OPTIONS, "w_bits": None, "budgets": {"latency_ms": 6}})
    states: list[dict[str, Any]] = []
    stopped = context(data, tmp_path)
    stopped.save = states.append
    stopped.should_stop = lambda: 15 if states else 0  # type: ignore[assignment]
    first = SearchRun(stopped, options)
    first._save()
    with pytest.raises(InterruptedRun):
        first.result()
    going = context(data, tmp_path)
    going.restore = lambda: states[-1]
    again = SearchRun(going, options)
    assert again.known.times == first.known.times == Times(8.0, 4.0)
    genome = first.known.space.random(np.random.default_rng(0))
    assert again.known.costs_of(genome) == first.known.costs_of(genome)
    assert first.known.costs_of(genome)["latency_ms"] <= 6 * (1 + 1e-9)
    assert SearchRun(context(data, tmp_path), options).known.times == Times(9.0, 3.0)


def test_a_front_over_latency_needs_no_budget_for_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("mcomp.metrics.model_latency", lambda *_, **__: type("Found", (), {"median_ms": 2.0})())
    objectives = {"algorithm": "nsga2", "objectives": ["top1", "latency_ms"]}
    run = SearchRun(context(data, tmp_path), Search.Options(**{**OPTIONS, "w_bits": None, "budgets": {}}, **objectives))
    genome = run.known.space.top()
    assert run.study.worth(Trial(0, "full", genome, 50.0, 50.0, costs=run.known.costs_of(genome))) == (50.0, -2.0)


def test_every_network_on_a_front_has_a_file_that_can_be_taken(data: Data, tmp_path: Path) -> None:
    told = SearchRun(context(data, tmp_path), Search.Options(**OPTIONS))
    known = told.known
    genomes = [known.space.lowest(), known.space.greedy()]
    told.study.trials = [
        Trial(place, "full", genome, 50.0 + place, 50.0, costs=known.costs_of(genome))
        for place, genome in enumerate(genomes)
    ]
    told.study.objectives = ("top1", "macs")
    best = told.study.best
    assert best is not None
    files = Outcome(told.study, known, best, {"regular": 8}).write(tmp_path)
    for place, genome in enumerate(genomes):
        again = known.space.genome(choice_in(files[f"front-{place}.yaml"], known))
        assert known.costs_of(again) == known.costs_of(genome)
