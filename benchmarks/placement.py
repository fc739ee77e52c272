"""Claim: Q/DQ for TensorRT stand where NVIDIA's own placer puts them.

The same float file goes through ModelOpt's ONNX quantiser; the network, quantised by mcomp, through the profile
``tensorrt``. For every convolution, matrix product, sum and pool of the two graphs, in order, the inputs that come from
DQ are compared. Differences are printed with their node; one of them is meant, and said why (`CHOSEN`). ModelOpt is
NVIDIA's, runs on a CPU, and is no dependency: without it the script says so and ends with 7.

    python benchmarks/placement.py [--out benchmarks/results/placement.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
import torchvision
from torch import Tensor, nn

import mcomp
from mcomp.deploy import to_onnx
from mcomp.deploy.preparation import prepare
from mcomp.deploy.qdq.checked_graph import CheckedGraph

OPERATIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
Site = tuple[str, tuple[bool, ...]]
#: Why the last layer's weight is an integer here and not there.
CHOSEN = (
    "by choice: what a recipe quantised is what ships, the last layer too, and its file is a quarter of the float one; "
    "`check-qdq` advises (P8), and `last_layer_float: true` leaves it float"
)


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "nin": (mcomp.models.nin(num_classes=10), torch.randn(4, 3, 32, 32)),
        "resnet18": (torchvision.models.resnet18(), torch.randn(4, 3, 64, 64)),
        "mobilenet_v2": (torchvision.models.mobilenet_v2(), torch.randn(4, 3, 64, 64)),
    }


def sites(path: Path) -> list[tuple[str, Site]]:
    """Name, type and which inputs are quantised, of every operation that may be."""
    model = onnx.load(path)
    graph = CheckedGraph(model, model.graph)
    return [
        (node.name, (node.op_type, tuple(graph.dequantised(name) is not None for name in node.input[:2])))
        for node in graph.nodes
        if node.op_type in OPERATIONS
    ]


def ours(model: nn.Module, x: Tensor, path: Path) -> None:
    to_onnx(model.eval(), (x,), path.with_suffix(".float.onnx"), "float")
    to_onnx(prepare(model, (x,), "tensorrt", lambda: [x]).model, (x,), path, "tensorrt")


def theirs(x: Tensor, path: Path) -> None:
    import modelopt.onnx.quantization as modelopt

    modelopt.quantize(
        str(path.with_suffix(".float.onnx")),
        quantize_mode="int8",
        calibration_data={"input": x.numpy()},
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(path.with_suffix(".modelopt.onnx")),
    )


def compared(mine: list[tuple[str, Site]], other: list[tuple[str, Site]]) -> dict[str, Any]:
    if [site[0] for _, site in mine] != [site[0] for _, site in other]:
        raise SystemExit("the two graphs hold other operations: nothing can be compared")
    differences = [
        {"node": name, "operation": site[0], "mcomp": list(site[1]), "modelopt": list(their[1])}
        for (name, site), (_, their) in zip(mine, other, strict=True)
        if site != their
    ]
    last = differences[-1] if differences else {}
    if last.get("node") == mine[-1][0] and last["operation"] == "Gemm" and all(last["mcomp"]):
        last["why"] = CHOSEN
    return {"operations": len(mine), "same": len(mine) - len(differences), "differences": differences}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peer
    if importlib.util.find_spec("modelopt") is None:
        print("ModelOpt is not installed: pip install 'nvidia-modelopt[onnx]'")
        return 7
    report: dict[str, Any] = {
        "versions": {name: version(name) for name in ("torch", "onnx", "nvidia-modelopt")}, "networks": {},
    }  # fmt: skip
    for name, (model, x) in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ours(model, x, path)
            theirs(x, path)
            found = compared(sites(path), sites(path.with_suffix(".modelopt.onnx")))
        report["networks"][name] = found
        print(f"{name}: {found['same']} of {found['operations']} operations quantised alike")
        for one in found["differences"]:
            print(f"  {one['operation']} `{one['node']}`: inputs {one['mcomp']}, ModelOpt {one['modelopt']}")
            if "why" in one:
                print(f"    {one['why']}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
