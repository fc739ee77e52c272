"""A candidate has one figure, whoever measures it when; making it changes nothing but itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.pruning.repeated import RepeatedPruning
from mcomp.quantization import Quantizer
from mcomp.search.evaluator import Evaluator
from mcomp.search.fitness import FULL, PROXY, Choice, Fitness, Level
from mcomp.search.scale_tuning import tune_scales
from mcomp.search.study import Task
from tests.unit.search.networks import Plain, images, seeded

BITS: Choice = {"a": {"w_bits": 8, "a_bits": 8}, "b": {"w_bits": 3, "a_bits": 4}, "head": {"w_bits": 8, "a_bits": 8}}
BOTH: Choice = {"a": {"w_bits": 8, "keep": 0.5}, "b": {"w_bits": 3, "a_bits": 4}, "c": {"keep": 0.75}}
GENES = [("a", "keep"), ("b", "w_bits"), ("c", "a_bits")]


def labels(count: int) -> Tensor:
    return torch.randint(4, (count,), generator=torch.Generator().manual_seed(count))


def fitness_of(dropout: float = 0.0, cuts: bool = True, **options: Any) -> Fitness:
    model = seeded(Plain, dropout)
    return Fitness(
        model,
        (images(),),
        [images(16, 10 + place) for place in range(3)],
        images(200, 50),
        labels(200),
        [labels(16) for _ in range(3)],
        pruning=RepeatedPruning(model, (images(),)) if cuts else None,
        **{"quantization": {"scheme": "lsq"}, **options},
    )


def held(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("level", [PROXY, FULL], ids=["proxy", "full"])
@pytest.mark.parametrize("choice", [BITS, BOTH, {"a": {"keep": 1.0}}, {}], ids=["bits", "both", "whole", "nothing"])
@pytest.mark.parametrize("quantization", [{"scheme": "lsq"}, None], ids=["lsq", "float"])
def test_the_model_is_as_it_was_to_the_bit_after_candidates_were_made(
    choice: Choice, level: Level, quantization: dict[str, Any] | None
) -> None:
    fitness = fitness_of(quantization=quantization)
    before, modes = held(fitness.model), [module.training for module in fitness.model.modules()]
    wanted = [each.requires_grad for each in fitness.model.parameters()]
    made = fitness.network(choice, level)
    assert not made.training
    assert same(before, held(fitness.model))
    assert modes == [module.training for module in fitness.model.modules()]
    assert wanted == [each.requires_grad for each in fitness.model.parameters()]
    assert all(each.grad is None for each in fitness.model.parameters())


@pytest.mark.parametrize("level", ["proxy", "full"])
def test_the_same_figure_comes_twice_on_any_number_of_threads_with_dropout_too(level: str) -> None:
    """To the bit: the networks are compared, of which the figure is only a rounding."""
    evaluator = Evaluator(fitness_of(dropout=0.4), GENES)
    networks: list[dict[str, Tensor]] = []
    make = evaluator.fitness.network

    def noted(choice: Choice, how: Level = FULL) -> nn.Module:
        made = make(choice, how)
        networks.append(held(made))
        return made

    evaluator.fitness.network = noted  # type: ignore[method-assign]
    before = torch.get_num_threads()
    found = []
    try:
        for threads, drawn in ((1, 0), (2, 5), (3, 9)):
            torch.set_num_threads(threads)
            torch.manual_seed(drawn)
            state = torch.get_rng_state()
            found.append(evaluator(Task(0, level, (0.5, 3, 4))))
            assert torch.get_num_threads() == threads
            assert torch.equal(state, torch.get_rng_state())
            evaluator(Task(1, level, (0.25, 2, 8)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert found[0].fitness is not None
    assert not found[0].error
    assert same(networks[0], networks[2])
    assert same(networks[0], networks[4])


def test_a_cheap_look_counts_the_first_128_images_and_a_close_one_all() -> None:
    fitness = fitness_of(cuts=False, quantization=None, batch_size=50)
    for level, count in ((PROXY, 128), (FULL, 200)):
        network = fitness.network({}, level)
        with torch.no_grad():
            answers, right = network(fitness.images[:count]), fitness.labels[:count]
        found = fitness({}, level)
        assert found.top1 == pytest.approx(100 * int((answers.argmax(1) == right).sum()) / count, abs=1e-12)
        chances = torch.softmax(answers, 1)[range(count), right]
        assert found.probability == pytest.approx(100 * float(chances.mean()), abs=1e-4)
    fitness.images, fitness.labels = fitness.images[:70], fitness.labels[:70]
    assert fitness({}, PROXY).top1 * 70 / 100 == pytest.approx(round(fitness({}, PROXY).top1 * 70 / 100))


def test_a_network_that_overflows_is_sure_of_nothing() -> None:
    fitness = fitness_of(cuts=False, quantization=None)
    with torch.no_grad():
        fitness.model.head.weight.fill_(float("inf"))
    assert fitness({}, PROXY).probability == 0


def test_statistics_are_those_of_the_batches_and_of_no_image_that_counts() -> None:
    fitness = fitness_of(cuts=False, quantization=None)
    made = fitness.network({}, Level(norm_batches=2, images=None))
    seen = fitness.model.a(torch.cat(list(fitness.batches[:2])))
    assert torch.allclose(made.norm_a.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(made.norm_a.running_var, seen.var((0, 2, 3)), atol=1e-4)


def test_a_search_of_channels_alone_quantises_nothing_and_one_of_bits_alone_cuts_nothing() -> None:
    cut = fitness_of(quantization=None).network({"a": {"keep": 0.5}}, PROXY)
    assert cut.a.out_channels == 10
    assert not any(isinstance(module, Quantizer) for module in cut.modules())
    quantized = fitness_of(cuts=False).network(BITS, PROXY)
    assert quantized.a.out_channels == 20
    assert sum(isinstance(module, Quantizer) for module in quantized.modules()) > 0


def test_bits_reach_the_layers_they_are_named_for() -> None:
    made = fitness_of().network({"a": {"w_bits": 2}, "b": {"w_bits": 5}, "c": {"w_bits": 8}}, PROXY)
    for name, bits in (("a", 2), ("b", 5)):
        weight = made.get_submodule(name)
        assert weight.weight_quantizer.bits == bits


def test_tuning_moves_scales_and_norms_and_leaves_the_weights() -> None:
    fitness = fitness_of()
    made = fitness.network(BITS, PROXY)
    frozen = made.head.bias
    frozen.requires_grad_(False)
    before = held(made)
    wanted = {name: each.requires_grad for name, each in made.named_parameters()}
    pairs = list(zip(fitness.batches, fitness.targets, strict=True))
    count = tune_scales(made, pairs, 4)
    after = held(made)
    mine = {
        f"{place}.{name}"
        for place, module in made.named_modules()
        if isinstance(module, Quantizer | nn.BatchNorm2d)
        for name, _ in module.named_parameters(recurse=False)
    }
    moved = {name for name, _ in made.named_parameters() if not torch.equal(before[name], after[name])}
    assert count == len(mine)
    assert moved
    assert moved <= mine
    assert {f"norm_{one}.weight" for one in "abc"} <= moved
    assert any("quantizer" in name for name in moved)
    assert wanted == {name: each.requires_grad for name, each in made.named_parameters()}
    assert all(each.grad is None for each in made.parameters())


def test_tuning_a_network_without_scales_and_norms_does_nothing() -> None:
    model = nn.Linear(3, 2)
    before = held(model)
    assert tune_scales(model, [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))], 3) == 0
    assert same(before, held(model))


def test_no_label_and_no_batch_is_no_step() -> None:
    fitness = fitness_of(cuts=False)
    fitness.targets = ()
    tuned, plain = fitness.network(BITS, FULL), fitness.network(BITS, Level(100, None, 0))
    assert same(held(tuned), held(plain))
    assert tune_scales(plain, [], 3) > 0


@pytest.mark.parametrize(
    "error", [RuntimeError("no such width\nin detail"), IndexError("no such width"), TypeError("no such width")]
)
def test_a_candidate_that_cannot_be_made_is_a_trial_that_says_why(error: Exception) -> None:
    evaluator = Evaluator(fitness_of(), GENES)

    def refuse(choice: Choice, level: Level = FULL) -> nn.Module:
        raise error

    evaluator.fitness.network = refuse  # type: ignore[method-assign]
    trial = evaluator(Task(7, "proxy", (0.5, 3, 4)))
    assert (trial.number, trial.level, trial.genome, trial.fitness) == (7, "proxy", (0.5, 3, 4), None)
    assert trial.error == f"{type(error).__name__}: no such width"


def test_bits_that_no_scheme_has_are_a_trial_with_an_error() -> None:
    trial = Evaluator(fitness_of(), GENES)(Task(0, "proxy", (0.5, 31, 4)))
    assert trial.fitness is None
    assert "31" in trial.error


def test_a_stop_is_looked_for_before_each_candidate() -> None:
    evaluator = Evaluator(fitness_of(), GENES)
    tasks = [Task(number, "proxy", (0.5, 3 + number, 4)) for number in range(3)]
    found: list[Any] = []
    for trial in evaluator.results(tasks, lambda: len(found) == 2):
        found.append(trial)
    assert [trial.number for trial in found] == [0, 1]
