"""What one layer alone costs, measured with one conversion for all, is what it costs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import InterruptedRun, StageError
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.quantization import calibrate, quantize, reestimate_batch_norms
from mcomp.search.genes import Gene
from mcomp.search.layer_losses import Samples, Values, measure_sensitivity
from mcomp.search.sensitivity import Sensitivity
from mcomp.search.sensitivity_map import Cell, SensitivityMap

FIRST, SECOND, LAST = "0", "3", "8"


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Three classes of images that differ in which channel is bright."""
    generator = torch.Generator().manual_seed(1)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        images = torch.randn(count, 3, 6, 6, generator=generator)
        return images + 0.4 * F.one_hot(labels, 3)[:, :, None, None], labels

    return Samples([drawn(32)[0], drawn(32)[0]], [drawn(64), drawn(32)])


@pytest.fixture(scope="module")
def model(samples: Samples) -> nn.Module:
    """Trained by a few steps, with a second layer whose weights are all whole multiples of one step."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    coarse = net[3]
    assert isinstance(coarse, nn.Conv2d)
    levels = torch.randint(-2, 2, coarse.weight.shape, generator=torch.Generator().manual_seed(2))
    coarse.weight = nn.Parameter(0.125 * levels.float(), requires_grad=False)
    optimizer = torch.optim.Adam([each for each in net.parameters() if each.requires_grad], 0.02)
    images, labels = samples.held[0]
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def inputs(samples: Samples) -> tuple[Tensor, ...]:
    return (samples.norms[0][:2],)


@pytest.fixture(scope="module")
def pruning(model: nn.Module, inputs: tuple[Tensor, ...]) -> RepeatedPruning:
    return RepeatedPruning(model, inputs)


@pytest.fixture(scope="module")
def found(model: nn.Module, inputs: tuple[Tensor, ...], samples: Samples, pruning: RepeatedPruning) -> SensitivityMap:
    return measure_sensitivity(model, inputs, samples, pruning=pruning)


def loss(network: nn.Module, samples: Samples) -> float:
    reestimate_batch_norms(network, list(samples.norms))
    with torch.no_grad():
        return float(
            F.cross_entropy(
                torch.cat([network.eval()(images) for images, _ in samples.held]),
                torch.cat([labels for _, labels in samples.held]),
            )
        )


def rise(found: SensitivityMap, *cell: object) -> float:
    (row,) = (row for row in found.rows if row.cell == cell)
    return row.loss_rise


def test_every_layer_has_every_value_in_order_of_execution(found: SensitivityMap) -> None:
    assert [row.cell for row in found.rows] == [
        *(("w_bits", layer, bits) for layer in (FIRST, SECOND, LAST) for bits in (8, 4, 2)),
        *(("a_bits", layer, bits) for layer in (FIRST, SECOND, LAST) for bits in (8, 4, 2)),
        *(("keep", layer, share) for layer in (FIRST, SECOND) for share in (0.75, 0.5, 0.25)),
    ]
    assert found.images == 96


def test_the_base_is_the_untouched_network_behind_the_same_statistics(
    found: SensitivityMap, model: nn.Module, samples: Samples
) -> None:
    assert found.base_loss == pytest.approx(loss(copy.deepcopy(model), samples), rel=1e-6)


@pytest.mark.parametrize(("kind", "layer"), [("w_bits", FIRST), ("w_bits", LAST), ("a_bits", SECOND)])
def test_a_rise_is_that_of_a_network_in_which_only_this_layer_was_converted(
    kind: str, layer: str, found: SensitivityMap, model: nn.Module, inputs: tuple[Tensor, ...], samples: Samples
) -> None:
    alone = quantize(model, inputs, scheme="lsq", w_bits=32, a_bits=32, overrides={layer: {kind: 2}})
    calibrate(alone, [samples.norms[0]])
    expected = loss(alone, samples) - found.base_loss
    assert rise(found, kind, layer, 2) == pytest.approx(expected, abs=1e-5)


def test_the_rise_of_a_cut_is_that_of_the_pruned_network(
    found: SensitivityMap, pruning: RepeatedPruning, samples: Samples
) -> None:
    expected = loss(pruning.cut({SECOND: 0.5}), samples) - found.base_loss
    assert rise(found, "keep", SECOND, 0.5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["w_bits", "a_bits"])
def test_eight_bits_cost_less_than_two(kind: str, found: SensitivityMap) -> None:
    assert sum(rise(found, kind, layer, 8) for layer in (FIRST, SECOND, LAST)) < sum(
        rise(found, kind, layer, 2) for layer in (FIRST, SECOND, LAST)
    )


def test_a_weight_that_two_bits_represent_costs_nothing_at_two_bits(found: SensitivityMap) -> None:
    assert abs(rise(found, "w_bits", SECOND, 2)) < 1e-4
    assert rise(found, "w_bits", FIRST, 2) > 1e-2


def test_measuring_leaves_the_network_as_it_is_to_the_bit(
    model: nn.Module, inputs: tuple[Tensor, ...], samples: Samples, pruning: RepeatedPruning
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_sensitivity(model, inputs, samples, Values([2], [2], [0.5]), pruning=pruning)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.training


@pytest.mark.parametrize("stop", [1, 10, 20])
def test_an_interrupted_measuring_ends_with_the_same_map(
    stop: int,
    found: SensitivityMap,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    samples: Samples,
    pruning: RepeatedPruning,
) -> None:
    kept: list[SensitivityMap] = []
    measured: list[Cell] = []

    def interrupt(so_far: SensitivityMap, cell: Cell, done: int, total: int) -> None:
        if done == stop:
            kept.append(SensitivityMap.from_dict(so_far.as_dict()))
            raise InterruptedRun

    with pytest.raises(InterruptedRun):
        measure_sensitivity(model, inputs, samples, pruning=pruning, progress=interrupt)
    again = measure_sensitivity(
        model,
        inputs,
        samples,
        pruning=pruning,
        begun=kept[0],
        progress=lambda so_far, cell, done, total: measured.append(cell),
    )
    assert again == found
    assert len(measured) == len(found.rows) - stop


def test_layers_that_are_ignored_are_not_measured(
    model: nn.Module, inputs: tuple[Tensor, ...], samples: Samples
) -> None:
    found = measure_sensitivity(model, inputs, samples, Values([4], [], []), ignore=["[38]"])
    assert [row.layer for row in found.rows] == [FIRST]
    with pytest.raises(StageError, match="no layer is left") as refusal:
        measure_sensitivity(model, inputs, samples, ignore=["*"])
    assert refusal.value.code == "MC488"


def test_a_loss_that_is_no_number_is_refused(inputs: tuple[Tensor, ...], samples: Samples, model: nn.Module) -> None:
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.get_submodule(LAST).get_parameter("bias"), float("nan"))
    with pytest.raises(StageError, match="the network as it came is nan") as refusal:
        measure_sensitivity(broken, inputs, samples)
    assert refusal.value.code == "MC487"


def test_a_search_takes_the_points_as_they_are(found: SensitivityMap) -> None:
    genes = [Gene(LAST, "w_bits", 2, 8), Gene(SECOND, "keep", 0.25, 1.0)]
    points = {name: curve for name, curve in found.points().items() if name in {gene.name for gene in genes}}
    curves = Sensitivity(genes, points=points)
    assert curves.loss(0, 2) >= curves.loss(0, 8) >= 0
    assert curves.loss(1, 1.0) == 0
    assert curves.loss(1, 0.25) == pytest.approx(max(rise(found, "keep", SECOND, share) for share in (0.75, 0.5, 0.25)))
