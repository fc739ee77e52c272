"""Shares that are given layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mcomp.errors import UsageError
from mcomp.pruning import prune
from tests.unit.pruning.pruning_nets import Net, block, head, images, seeded

# ABCPruner's result for ResNet-18 as Prune_Quant published it, layer by layer in order of execution: 20 convolutions
# and the classifier.
BEST_CANDIDATES_PRUNE = [
    0.2509892381838768, 0.1949955777182775, 0.15481105457277416, 0.181482879280324, 0.15236411504078137,
    0.12624166044322543, 0.19945650833123205, 0.14867201615531073, 0.09744269325603885, 0.16507781611943093,
    0.22461711527148995, 0.19174842125328845, 0.13530936319651926, 0.2769501456887007, 0.1281951215877744,
    0.09779858333620649, 0.13675934743598922, 0.18702198771408263, 0.2592740954241761, 0.16431281448915383,
    0.15246512653703692,
]  # fmt: skip


def chain() -> nn.Module:
    return seeded(nn.Sequential(block(3, 16), block(16, 32), block(32, 24), head(24)))


def widths(model: nn.Module, **how: Any) -> list[int]:
    result = prune(model, (images(),), **how)
    return [result.model.get_submodule(f"{index}.0").out_channels for index in range(3)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"keep": {"0.0": 0.5}}, [8, 32, 24]),
        ({"keep": {"0.0": 12, "1.0": 0.25}}, [12, 8, 24]),
        ({"keep": {"*": 0.5, "1.0": 1.0}}, [8, 32, 12]),
        ({"prune": {"0.0": 0.75, "2.0": 0.0}}, [4, 32, 24]),
        ({"keep": {"0.0": 0.5}, "prune": {"1.0": 0.5}}, [8, 16, 24]),
        ({"keep": [0.5, 0.25, 1]}, [8, 8, 24]),
        ({"prune": [0.5, 0.25, 0.0, 0.5]}, [8, 24, 24]),
        ({"keep": {"1.0": 0.6}, "regular": 8}, [16, 16, 24]),
        ({"keep": {"1.0": 0.1}, "min_channels": 5}, [16, 5, 24]),
        ({"keep": {"0.0": 1.0, "1.0": 1.0}, "ratio": 0.5}, [16, 32, 11]),
    ],
    ids=str,
)
def test_a_layer_keeps_what_it_was_told_and_the_others_what_the_ratio_leaves(
    how: dict[str, Any], expected: list[int]
) -> None:
    assert widths(chain(), **how) == expected


def test_a_list_and_the_names_it_stands_for_do_the_same() -> None:
    listed = prune(chain(), (images(),), keep=[0.5, 0.25, 0.75])
    named = prune(chain(), (images(),), keep={"0.0": 0.5, "1.0": 0.25, "2.0": 0.75})
    assert listed.kept == named.kept


def test_the_published_list_of_resnet18_imports_as_shares_to_keep() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=10).eval()
    inputs = (torch.randn(2, 3, 32, 32),)
    result = prune(model, inputs, keep=BEST_CANDIDATES_PRUNE, importance="l1")
    layers = [name for name in result.widths if name != "fc"]
    assert layers[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    alone = dict(zip(layers, BEST_CANDIDATES_PRUNE, strict=False))
    for name in layers:
        if name.endswith("conv1") and name != "conv1":  # inside a block: coupled with nothing
            assert len(result.kept[name]) == round(alone[name] * result.widths[name])
    stem = (alone["conv1"] + alone["layer1.0.conv2"] + alone["layer1.1.conv2"]) / 3
    assert len(result.kept["conv1"]) == round(64 * stem)
    assert any("coupled layers keep one share" in note and "`conv1` 0.251" in note for note in result.notes)


def test_coupled_layers_that_were_told_the_same_need_no_note() -> None:
    model = seeded(Net(lambda s, x: s.h(s.a(x) + s.b(x)), a=block(3, 16), b=block(3, 16), h=head(16)))
    result = prune(model, (images(),), keep={"a.0": 0.5, "b.0": 0.5})
    assert len(result.kept["a.0"]) == 8
    assert not [note for note in result.notes if "coupled" in note]


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"keep": {"0.1x": 0.5}}, "MC418", "`keep` pattern `0.1x` matches no layer"),
        ({"prune": {"5.*": 0.5}}, "MC418", "`prune` pattern `5.*` matches no layer"),
        ({"keep": [0.5, 0.5]}, "MC457", "lists 2 shares; the network has 4 layers, 3 without those"),
        ({"keep": {"0.0": 0.5}, "prune": {"*": 0.5}}, "MC457", "`0.0` is matched by both"),
        ({"keep": {"0.0": 1.5}}, "MC417", "above 0 and at most 1"),
        ({"keep": {"0.0": 17}}, "MC417", "17 channels of `0.0`, which has 16"),
        ({"prune": {"0.0": 1.0}}, "MC417", "at least 0 and below 1"),
    ],
    ids=str,
)
def test_a_list_that_does_not_fit_is_refused(how: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        prune(chain(), (images(),), **how)
    assert caught.value.code == code
    assert words in str(caught.value)
