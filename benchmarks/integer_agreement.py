"""Claim: what was simulated is what the file computes, integer by integer, wherever a lowering is exact.

NIN and a residual network train for some epochs on a part of CIFAR-10, are quantised by each scheme with one epoch of
training, and written for ONNX Runtime (its integer kernels run) and for TensorRT (the file runs as it is written). Each
layer reads the simulated integers of 256 test images, and what it makes of them is compared with what was simulated:
sums of floats in another order round to the other side of a half now and then, by one step, in fewer than one of 1000
integers. From end to end the two agree about the class of at least 99.9 % of the test images. A lowering that is not
exact (zero points, for TensorRT) has its row, but is held to nothing.

    python benchmarks/integer_agreement.py --images FOLDER [--networks nin] [--quick] [--out FILE]

FOLDER holds CIFAR-10 as ``train/<class>/*`` and ``test/<class>/*``; FILE was benchmarks/results/integer_agreement.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import mcomp
from mcomp.deploy import OnnxSession, to_onnx, verify
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.preparation import prepare

EIGHT_BITS = {"a_scheme": "iao", "a_bits": 8, "first_layer_float": False, "last_layer_float": False}
SCHEMES: dict[str, dict[str, Any]] = {
    "iao symmetric": {"scheme": "iao", "levels": 127},
    "iao asymmetric": {"scheme": "iao", "symmetric_activations": False},
    "dorefa int_exact": {"scheme": "dorefa", "levels": 127, "first_layer_float": False},
    "lsq w4a4": {"scheme": "lsq", "w_bits": 4, "a_bits": 4},
    "ristretto": {"scheme": "ristretto", "levels": 127},
    "binary weights": {"scheme": "wbwtab", "w_bits": 1, "levels": 127, **EIGHT_BITS},
    "ternary weights": {"scheme": "wbwtab", "w_bits": 2, "levels": 127, **EIGHT_BITS},
    "both binary": {"scheme": "wbwtab", "w_bits": 1, "a_bits": 1},
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "nin": lambda: mcomp.models.nin(num_classes=10, width=0.25),
    "resnet10": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
}
PROFILES = ("onnxruntime", "tensorrt")
COMPARED, LARGEST, SHARE, AGREEMENT = 256, 1, 1e-3, 99.9


def compared(model: nn.Module, profile: Any, data: mcomp.data.Data, test: mcomp.data.Data) -> dict[str, Any]:
    """One file: its integers against the simulated ones, layer by layer, and its answers."""
    inputs, simulate = data.example_inputs, profile != "onnxruntime"
    prepared = prepare(model, inputs, profile, lambda: data.train.subset(256, seed=0).batches(), "mse")
    images, _ = next(iter(test.test.batches(COMPARED)))
    with tempfile.TemporaryDirectory() as folder:
        lowering = to_onnx(prepared.model, inputs, Path(folder) / "m.onnx", profile)
        rows = compare_integers(lowering.path, prepared.model, images, simulate)
        session = OnnxSession(lowering.path, simulate=simulate)
        whole = verify(session.predict, prepared.model.eval(), test.test)
    worst = max(rows, key=lambda row: row.differing / row.elements)
    found: dict[str, Any] = {
        "exact": lowering.exact, "kernels": "float" if session.simulated or simulate else "integer",
        "tensors": len(rows), "integers": sum(row.elements for row in rows),
        "differing": sum(row.differing for row in rows) / sum(row.elements for row in rows),
        "worst_tensor": worst.differing / worst.elements, "largest": max(row.largest for row in rows),
        "agreement": whole.agreement, "top1": whole.top1, "top1_simulated": whole.simulated_top1,
        "sqnr_db": round(whole.sqnr_db, 1),
    }  # fmt: skip
    if lowering.exact:
        found["holds"] = found["largest"] <= LARGEST and worst.differing < SHARE * worst.elements
        found["holds"] = found["holds"] and whole.agreement >= AGREEMENT
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs: shows that it runs")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.process_time()
    options: Any = {"name": "image_folder", "root": str(arguments.images), "image_size": 32}
    data = mcomp.data.load(**options, limit=500 if arguments.quick else 6000)
    test = mcomp.data.load(**options, limit=500) if arguments.quick else mcomp.data.load(**options)
    report: dict[str, Any] = {
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        "train_images": len(data.train), "test_images": len(test.test), "rows": [],
    }  # fmt: skip
    for network in arguments.networks:
        torch.manual_seed(0)
        model: nn.Module = NETWORKS[network]()
        trained = mcomp.stages.train(model, data=data, epochs=1 if arguments.quick else 8, device="cpu").model
        for scheme in arguments.schemes:
            made = mcomp.stages.quantize(trained, data=data, epochs=1, device="cpu", **SCHEMES[scheme]).model
            for profile in PROFILES:
                row = {"network": network, "scheme": scheme, "profile": profile}
                row |= compared(made, profile, data, test)
                report["rows"].append(row)
                print(
                    f"{network}, {scheme}, {profile}{'' if row['exact'] else ' (not exact)'}: of {row['integers']} "
                    f"integers {row['differing']:.1e} differ, by at most {row['largest']}; same answer "
                    f"{row['agreement']:.2f} %, top-1 {row['top1']:.2f} and {row['top1_simulated']:.2f} %",
                    flush=True,
                )
    report["cpu_seconds"] = round(time.process_time() - started)
    broken = [row for row in report["rows"] if not row.get("holds", True)]
    for row in broken:
        print(f"FAILS: {row['network']}, {row['scheme']}, {row['profile']}: {row}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
