"""One classifier of each of torchvision's families, for TensorRT; `benchmarks/deploy_zoo.py` takes them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mcomp.deploy import check_qdq, to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.preparation import prepare

models = pytest.importorskip("torchvision.models")

FAMILIES = [
    "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t",
]  # fmt: skip
IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def warmed(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_rule_of_the_importer_is_broken_and_every_layer_computes_the_simulated_integers(
    tmp_path: Path, name: str
) -> None:
    prepared = prepare(warmed(name), (IMAGES,), "tensorrt", lambda: [IMAGES])
    lowering = to_onnx(prepared.model, (IMAGES,), tmp_path / "m.onnx", "tensorrt")
    assert lowering.exact
    assert not [each for each in check_qdq(lowering.path, "tensorrt") if each.severity == "error"]
    rows = compare_integers(lowering.path, prepared.model, IMAGES, simulate=True)
    assert len(rows) == sum(row.kind == "activation" for row in lowering.tensors)
    assert max(row.largest for row in rows) <= 1
    assert sum(row.differing for row in rows) <= 1e-4 * sum(row.elements for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_openvino_runs_all_of_its_convolutions_in_integers(tmp_path: Path, name: str) -> None:
    openvino = pytest.importorskip("openvino")
    prepared = prepare(warmed(name), (IMAGES,), "tensorrt", lambda: [IMAGES])
    path = to_onnx(prepared.model, (IMAGES,), tmp_path / "m.onnx", "tensorrt").path
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    found = [fact["runtimePrecision"].astype(str) for fact in facts if "Convolution" in fact["layerType"].astype(str)]
    assert found
    assert set(found) <= {"u8", "i8"}
