"""Claim: no rule of TensorRT's importer is broken by the INT8 file of any torchvision classifier, and OpenVINO runs
all of their convolutions in integers.

Each network (random weights, batch norms warmed, ranges the extremes of two images) is quantised after training,
written for TensorRT, checked by the rules of `mcomp check-qdq`, and compiled by OpenVINO, whose record tells.

    python benchmarks/deploy_zoo.py [--profile tensorrt] [--models resnet18 …] [--largest 100] [--out FILE]

`--largest` leaves out networks of more than that many million parameters.
"""  # noqa: D205  the claim takes two lines

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.preparation import prepare
from mcomp.metrics import sqnr_db

#: Networks of a fixed input size, or whose adaptive pool enlarges a smaller one, which ONNX has no operator for.
FULL_SIZE = ("alexnet", "vgg", "maxvit")
SIZE, FULL = 96, 224


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network in eval mode, and two images."""
    size = FULL if name.startswith(FULL_SIZE) else SIZE
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False}
    if name.startswith("vit"):
        size = SIZE if "16" in name else FULL if "14" in name else 128
        options = {"image_size": size}
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **options)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model.eval(), images


def openvino_convolutions(path: Path, images: torch.Tensor) -> tuple[collections.Counter[str], float, torch.Tensor]:
    """How many convolutions ran in which precision, seconds to compile, and the output."""
    import openvino

    started = time.perf_counter()
    model = openvino.Core().read_model(str(path))
    model.reshape(list(images.shape))
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    found = collections.Counter(
        fact["runtimePrecision"].astype(str) for fact in facts if "Convolution" in fact["layerType"].astype(str)
    )
    output = torch.from_numpy(compiled([images.numpy()])[0].copy())
    return found, time.perf_counter() - started, output


def deployed(name: str, profile: Any, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    model, images = build(name)
    prepared = prepare(model, (images,), profile, lambda: [images])
    lowering = to_onnx(prepared.model, (images,), folder / "m.onnx", profile)
    seconds = time.perf_counter() - started
    target = profile if profile in ("onnxruntime", "openvino") else "tensorrt"
    violations = check_qdq(lowering.path, target)
    with torch.no_grad():
        simulated = prepared.model(images)
    row: dict[str, Any] = {
        "model": name,
        "seconds": round(seconds, 1),
        "exact": lowering.exact,
        "errors": sorted({each.rule for each in violations if each.severity == "error"}),
        "warnings": dict(collections.Counter(each.rule for each in violations if each.severity == "warning")),
        "onnxruntime_db": round(sqnr_db(simulated, OnnxSession(lowering.path, simulate=True).predict(images)), 1),
        "notes": [note[:200] for note in (*prepared.notes, *lowering.notes)],
    }
    if find_spec("openvino") is not None:
        convolutions, _, output = openvino_convolutions(lowering.path, images)
        row["openvino"] = dict(convolutions)
        row["openvino_db"] = round(sqnr_db(simulated, output), 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="tensorrt")
    parser.add_argument("--models", nargs="+", default=models.list_models(module=models))
    parser.add_argument("--largest", type=float, default=100.0, metavar="MILLIONS")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows, failed = [], []
    for name in arguments.models:
        with torch.device("meta"):
            size = sum(each.numel() for each in models.get_model(name, weights=None).parameters()) / 1e6
        if size > arguments.largest:
            print(f"{name}: left out, {size:.0f} million parameters", flush=True)
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                row = deployed(name, arguments.profile, Path(folder))
        except Exception as error:  # the sweep goes on, and says so
            failed.append(name)
            print(f"{name}: FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        rows.append(row)
        print(json.dumps(row), flush=True)
    inexact = [row["model"] for row in rows if set(row.get("openvino", {})) - {"u8", "i8"}]
    print(
        f"{len(rows)} files, {sum(bool(row['errors']) for row in rows)} break a rule of the importer; "
        f"{len(inexact)} run a convolution in float {inexact}; {len(failed)} failed {failed}"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps({"profile": arguments.profile, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
