"""Claim: a binary convolution by XNOR and popcount is at least 5 x ONNX Runtime in float32, and 1.5 x in INT8.

One thread, batch 1, floats in and floats out, so packing is included. Peers are ONNX Runtime on the same layer: in
float32, and in u8s8 per channel as its own ``quantize_static`` writes it, Q and DQ included. Then a whole binary NIN
(first and last layer float, batch norms folded) against its INT8 file of the ``onnxruntime`` profile and its float32
file. In every round each engine runs alone for a few calls, after one that is not counted; ratios are paired by round.
``exact`` says that the integers behind the measured output are those of a float64 convolution of the signs.

    python benchmarks/xnor.py [--rounds 40] [--path auto|avx512|avx2|scalar] [--out benchmarks/results/xnor.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy import OnnxSession, to_onnx
from mcomp.deploy.xnor import accelerate, available_paths
from mcomp.models.network_in_network import nin
from mcomp.quantization import calibrate, fold_batch_norms, quantize

LAYERS = ((256, 256, 14), (192, 192, 16), (128, 128, 28))
ENDS = {"first_layer_float": False, "last_layer_float": False}
LEAST = {"fp32": 5.0, "u8s8": 1.5}
CALLS = 5


class Batches(CalibrationDataReader):
    """One input, once."""

    def __init__(self, name: str, x: Tensor) -> None:
        self.left = [{name: x.numpy()}]

    def get_next(self) -> dict[str, Any] | None:
        """The next input, as ONNX Runtime asks for it."""
        return self.left.pop() if self.left else None


def race(engines: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Medians in milliseconds, and of each engine the median of its time over that of ``xnor`` in the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, call in engines.items():
            call()
            taken = []
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(taken))
    ratios = {
        name: [theirs / ours for theirs, ours in zip(times, seconds["xnor"], strict=True)]
        for name, times in seconds.items()
        if name != "xnor"
    }
    return {
        "milliseconds": {name: round(1e3 * statistics.median(times), 4) for name, times in seconds.items()},
        "times_faster_than": {name: round(statistics.median(each), 2) for name, each in ratios.items()},
        "quartiles": {name: [round(q, 2) for q in statistics.quantiles(each, n=4)] for name, each in ratios.items()},
    }


def convolution(inputs: int, outputs: int, side: int, path: Any, rounds: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1)).eval()
    x = torch.randn(1, inputs, side, side)
    binary = quantize(model, (x,), scheme="wbwtab", **ENDS).eval()
    fast = accelerate(binary, path=path).model
    to_onnx(model, (x,), folder / "fp32.onnx", profile="float")
    float_session = OnnxSession(folder / "fp32.onnx")
    quantize_static(
        folder / "fp32.onnx", folder / "u8s8.onnx", Batches(float_session.input_names[0], x), QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    int8_session = OnnxSession(folder / "u8s8.onnx")
    layer = binary.get_submodule("0")
    found: Any = layer.integer_weight()  # type: ignore[operator]
    sums = F.conv2d(torch.where(x >= 0, 1.0, -1.0).double(), found.values.double(), padding=1).float()
    wanted = sums * found.scale.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)  # type: ignore[operator, union-attr]
    engines: dict[str, Callable[[], object]] = {
        "xnor": lambda: fast(x),
        "u8s8": lambda: int8_session.predict(x),
        "fp32": lambda: float_session.predict(x),
    }
    exact = torch.equal(fast(x), wanted)
    return {"layer": f"{inputs}->{outputs} 3x3 @{side}x{side}", "exact": exact, **race(engines, rounds)}


def network(path: Any, rounds: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nin().eval()
    x = torch.randn(1, 3, 32, 32)
    model.train()(torch.randn(16, 3, 32, 32))
    binary = fold_batch_norms(quantize(model.eval(), (x,), scheme="wbwtab").eval(), (x,)).model
    made = accelerate(binary, path=path)
    eight = quantize(model, (x,), scheme="iao").eval()
    calibrate(eight, [torch.randn(16, 3, 32, 32)], "minmax")
    to_onnx(eight, (x,), folder / "nin8.onnx", profile="onnxruntime")
    to_onnx(model, (x,), folder / "nin32.onnx", profile="float")
    int8_session, float_session = OnnxSession(folder / "nin8.onnx"), OnnxSession(folder / "nin32.onnx")
    engines: dict[str, Callable[[], object]] = {
        "xnor": lambda: made.model(x),
        "int8": lambda: int8_session.predict(x),
        "fp32": lambda: float_session.predict(x),
        "simulated": lambda: binary(x),
    }
    error = float((made.model(x) - binary(x)).abs().max() / binary(x).abs().max())
    counted = sum(row.popcount for row in made.layers)
    return {
        "network": "nin, batch 1, 32x32",
        "layers_by_popcount": f"{counted} of {len(made.layers)}",
        "relative_difference_to_simulated": error,
        **race(engines, rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--path", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        layers = [convolution(*sizes, options.path, options.rounds, Path(folder)) for sizes in LAYERS]
        whole = network(options.path, options.rounds, Path(folder))
    held = all(
        row["exact"] and all(row["times_faster_than"][peer] >= least for peer, least in LEAST.items()) for row in layers
    )
    result = {
        "claim": f"at least {LEAST['fp32']} x float32 and {LEAST['u8s8']} x u8s8 of ONNX Runtime, packing included; "
        "a whole binary NIN faster than its INT8 file",
        "held": held and whole["times_faster_than"]["int8"] > 1,
        "threads": 1,
        "path": available_paths()[0] if options.path == "auto" else options.path,
        "rounds": options.rounds,
        "versions": {
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "layers": layers,
        "network": whole,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
