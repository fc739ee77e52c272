"""Torchvision's detectors and segmenters, pruned unaided: exact before anything is selected, and still detectors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from mcomp.pruning import prune
from tests.unit.pruning.named_nets import silenced

SMALL = {"min_size": 96, "max_size": 96}


def _ssd(model: Any, x: Tensor) -> list[Tensor]:
    return list(model.head(list(model.backbone(x).values())).values())


def _region_proposals(model: Any, x: Tensor) -> list[Tensor]:
    features = list(model.backbone(x).values())
    boxes = [torch.tensor([[0.0, 0, 40, 40], [10, 20, 90, 70]], dtype=x.dtype)]
    named = {str(level): feature for level, feature in enumerate(features)}
    pooled = model.roi_heads.box_roi_pool(named, boxes, [(96, 96)])
    return [
        *itertools.chain(*model.rpn.head(features)),
        *model.roi_heads.box_predictor(model.roi_heads.box_head(pooled)),
    ]


def _segmentation(model: Any, x: Tensor) -> list[Tensor]:
    found: Tensor = model(x)["out"]
    return [found]


#: Name of the builder, its options, the size of the input, and what it computes before anything is selected.
NETWORKS = {
    "ssdlite320_mobilenet_v3_large": ({}, 320, _ssd),
    "retinanet_resnet50_fpn": (SMALL, 96, _ssd),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (SMALL, 96, _region_proposals),
    "lraspp_mobilenet_v3_large": ({}, 64, _segmentation),
    "deeplabv3_mobilenet_v3_large": ({}, 64, _segmentation),
    "fcn_resnet50": ({"aux_loss": True}, 64, _segmentation),
}
QUICK = "lraspp_mobilenet_v3_large"


def warmed(name: str, options: dict[str, Any], size: int) -> tuple[nn.Module, Tensor]:
    """Random weights, and batch norms that have seen noise: otherwise hardly anything reaches the output."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval(), torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_before_selection_it_computes_what_the_whole_one_does_once_its_cut_channels_are_silent(name: str) -> None:
    options, size, raw = NETWORKS[name]
    model, x = warmed(name, options, size)
    result = prune(model, (x,), ratio=0.5, regular=8, importance="l1", scope="per_layer")
    assert result.max_error <= 1e-5
    assert result.macs_after < 0.45 * result.macs_before
    quiet = silenced(model, result.model)
    with torch.no_grad():
        found, expected = raw(result.model.double(), x.double()), raw(quiet.double(), x.double())
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) <= 1e-9 * float(other.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS)[:3])
def test_a_pruned_detector_still_detects_and_trains(name: str) -> None:
    options, size, _ = NETWORKS[name]
    model, x = warmed(name, options, size)
    small = prune(model, (x,), ratio=0.5, regular=8, importance="l1", scope="per_layer").model
    with torch.no_grad():
        (found,) = small(x)
    assert {"boxes", "labels", "scores"} <= found.keys()
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}
    losses = small.train()(torch.cat([x, x]), [target, target])
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
