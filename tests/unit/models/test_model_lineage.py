"""The networks of published compression results: as large as published, and fit for every kind of compression."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from mcomp import pruning
from mcomp.deploy import to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.preparation import prepare
from mcomp.metrics import count
from mcomp.models import build
from mcomp.models.registry import MODELS
from mcomp.models.typical import typical

#: Millions of parameters as printed, millions of MACs, and who says so.
PUBLISHED = {
    "resnet20": ("0.27", 41),  # He et al. 2016, table 6; MACs: Idelbayev's reproduction, 0.041 G
    "resnet56": ("0.85", 125),  # He et al. 2016, table 6; MACs: Li et al. 2017, table 1, 1.25e8
    "vgg16_bn": ("15.0", 313),  # Li et al. 2017, table 1: 1.5e7 and 3.13e8
    "densenet40": ("1.0", 533 / 2),  # Huang et al. 2017, table 2; MACs: Liu et al. 2017, table 1, 5.33e8 operations
    "resnet18": ("11.69", 1814),  # torchvision
    "resnet50": ("25.56", 4089),  # torchvision
    "resnet50_caffe": ("25.56", 3858),  # as large as torchvision's; He et al. 2016, table 1: 3.8e9
    "mobilenet_v1": ("4.2", 569),  # Howard et al. 2017, table 4
    "mobilenet_v2": ("3.50", 301),  # torchvision; Sandler et al. 2018, table 4: 300 M
    "darknet19": ("20.8", 5580 / 2),  # Redmon and Farhadi 2017: 5.58e9 operations
    "darknet53": ("41.6", 18_700 / 2),  # Redmon and Farhadi 2018, table 2: 18.7e9 operations at 256 pixels
}
NAMES = [*PUBLISHED, "resnet18_caffe"]
QUICK = {"resnet20", "vgg16_bn", "resnet18_caffe", "mobilenet_v1"}


def tiny(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A narrow network whose norms have seen images, and such images, of the smallest size."""
    model = build(name, num_classes=5, width=0.1, in_channels=3)
    side = max(MODELS[name].min_size, 16)
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None
            norm.weight.uniform_(0.5, 1.5)
        model.train()(images)
    return model.eval(), images


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    usual = typical(name)
    assert usual is not None
    model = build(name, num_classes=usual.classes, weightless=True)
    cost = count(model, (torch.zeros(1, *usual.shape),))
    params, macs = PUBLISHED[name]
    assert f"{cost.params / 1e6:.{len(params.partition('.')[2])}f}" == params
    assert cost.macs / 1e6 == pytest.approx(macs, rel=0.012)  # papers round, and some count other operations too


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_a_network_has_the_weights_of_torchvisions(name: str) -> None:
    ours, theirs = (build(one, num_classes=1000, weightless=True) for one in (name, f"torchvision:{name}"))
    assert sorted(p.shape for p in ours.parameters()) == sorted(p.shape for p in theirs.parameters())


def test_caffes_resnet18_has_one_layer_more_and_its_resnet50_strides_elsewhere() -> None:
    usual, caffe = (build(name, num_classes=1000, weightless=True) for name in ("resnet18", "resnet18_caffe"))
    layers, more = ([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)] for net in (usual, caffe))
    assert (len(layers), len(more)) == (21, 22)
    extra = 64 * 64 + 2 * 64  # a 1 x 1 convolution and its norm
    assert sum(p.numel() for p in caffe.parameters()) == sum(p.numel() for p in usual.parameters()) + extra
    strided = [
        [
            m.kernel_size[0]
            for m in build(name, weightless=True).modules()
            if isinstance(m, nn.Conv2d) and m.stride[0] > 1
        ]
        for name in ("resnet50", "resnet50_caffe")
    ]
    assert strided == [[7, 3, 1, 3, 1, 3, 1], [7, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(0, 0), (9, 4), (33, 17)])
def test_a_network_takes_every_size_from_the_smallest_on(name: str, size: tuple[int, int]) -> None:
    height, width = (max(side, MODELS[name].min_size) for side in size)
    model = build(name, num_classes=7, width=0.05, in_channels=1)
    assert model(torch.randn(2, 1, height, width)).shape == (2, 7)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_trace_and_a_script_compute_the_same(name: str) -> None:
    model, images = tiny(name)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(fx.symbolic_trace(model)(images[:1]), model(images[:1]))
        torch.testing.assert_close(torch.jit.script(model)(images), expected)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_a_network_is_pruned_quantised_and_runs_as_an_integer_file(name: str, tmp_path: Path) -> None:
    model, images = tiny(name)
    pruned = pruning.prune(model, (images,), 0.3).model
    before, after = (count(one, (images,)) for one in (model, pruned))
    assert after.params < before.params
    assert after.macs < before.macs
    prepared = prepare(pruned, (images,), "onnxruntime", lambda: [images])
    lowering = to_onnx(prepared.model, (images,), tmp_path / "model.onnx", "onnxruntime")
    assert lowering.exact
    rows = compare_integers(lowering.path, prepared.model, images, simulate=True)
    assert max(row.largest for row in rows) <= 1  # a value between two integers may go either way
    assert OnnxSession(lowering.path, 1).predict(images[:1]).shape == (1, 5)
