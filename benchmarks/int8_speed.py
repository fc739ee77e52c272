"""Claim: the INT8 files run as fast as those of each runtime's own quantiser, and about four times smaller than float.

Every network is written once in float and quantised from the same images by mcomp, by ONNX Runtime's
`quantize_static` (uint8 activations, int8 weights per channel) and by NNCF for OpenVINO. All files run in turns in
one process on one thread; a ratio is the median over rounds of paired times. Weights are random, batch norms warmed.

    python benchmarks/int8_speed.py [--models nin …] [--batches 1 32] [--sessions 5] [--rounds 5] [--out FILE]

NNCF (`pip install nncf`) and OpenVINO are left out, and said to be, where they are not installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcomp.deploy import OnnxSession, to_onnx
from mcomp.deploy.preparation import prepare
from mcomp.metrics import sqnr_db
from mcomp.models import build
from mcomp.pruning import prune

SIZES = {"nin": 32, "resnet18": 224, "mobilenet_v2": 224}
CALIBRATION = 8
PRUNED_TO = 16  # multiples
#: A round is repeated until it takes this long, for short networks jitter.
ROUND_SECONDS = 0.02

Run = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
Open = Callable[[], Run]


def network(name: str, images: Tensor) -> nn.Module:
    """Random weights, batch norms warmed on the calibration images."""
    torch.manual_seed(0)
    model = build(name if name == "nin" else f"torchvision:{name}")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment]  # the plain mean
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def ours(model: nn.Module, images: Tensor, profile: Any, path: Path) -> Path:
    """Mcomp's file for a profile, its ranges the extremes of the same images."""
    prepared = prepare(model, (images[:2],), profile, lambda: [images], "minmax")
    return to_onnx(prepared.model, (images[:2],), path, profile).path


def static_quantised(fp32: Path, images: Tensor, path: Path) -> Path:
    """ONNX Runtime's own INT8 file of the same float graph."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter([{"input": images.numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(fp32), str(prepared))
    quantize_static(
        str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def in_onnxruntime(path: Path) -> Run:
    """A file in ONNX Runtime on one thread."""
    session = OnnxSession(path, threads=1)._session
    return lambda images: session.run(None, {"input": images})[0]  # type: ignore[no-any-return]


def in_openvino(model: Any, batch_shape: tuple[int, ...]) -> Run:
    """A file or an OpenVINO model on one stream of one thread."""
    import openvino

    core = openvino.Core()
    loaded = core.read_model(str(model)) if isinstance(model, Path) else model.clone()
    loaded.reshape(list(batch_shape))
    settings = {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    request = core.compile_model(loaded, "CPU", settings).create_infer_request()

    def run(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        request.infer([images], share_inputs=True)
        found: np.ndarray[Any, Any] = request.get_output_tensor(0).data
        return found

    return run


def nncf_quantised(fp32: Path, images: Tensor) -> Any:
    import nncf
    import openvino

    nncf.set_log_level(40)
    return nncf.quantize(openvino.Core().read_model(str(fp32)), nncf.Dataset([images.numpy()]))


def entrants(name: str, images: Tensor, batch: int, folder: Path) -> tuple[dict[str, Open], dict[str, int]]:
    """What opens each entrant, by name, and the size of the files in bytes."""
    model, example = network(name, images), (images[:2],)
    files = {"ORT fp32": to_onnx(model, example, folder / "fp32.onnx", "float").path}
    files["ORT mcomp"] = ours(model, images, "onnxruntime", folder / "mcomp.onnx")
    pruned = prune(model, example, 0.5, regular=PRUNED_TO, importance="l1", scope="per_layer").model
    files["ORT fp32, pruned"] = to_onnx(pruned, example, folder / "pruned.onnx", "float").path
    files["ORT mcomp, pruned"] = ours(pruned, images, "onnxruntime", folder / "pruned_int8.onnx")
    files["ORT quantize_static"] = static_quantised(files["ORT fp32"], images, folder / "static.onnx")
    opened: dict[str, Open] = {label: partial(in_onnxruntime, path) for label, path in files.items()}
    if find_spec("openvino") is not None:
        shape = (batch, *images.shape[1:])
        openvino = ours(model, images, "openvino", folder / "openvino.onnx")
        tensorrt = ours(model, images, "tensorrt", folder / "tensorrt.onnx")
        opened["OV fp32"] = partial(in_openvino, files["ORT fp32"], shape)
        opened["OV mcomp"] = partial(in_openvino, openvino, shape)
        opened["OV mcomp tensorrt"] = partial(in_openvino, tensorrt, shape)
        if find_spec("nncf") is not None:
            opened["OV nncf"] = partial(in_openvino, nncf_quantised(files["ORT fp32"], images), shape)
    return opened, {label: path.stat().st_size for label, path in files.items()}


def interleaved(opened: dict[str, Open], x: np.ndarray[Any, Any], sessions: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per call, one figure per entrant and round.

    All are opened anew ``sessions`` times: where a session's buffers happen to lie may double the time of a layer.
    """
    times: dict[str, list[float]] = {label: [] for label in opened}
    repeats: dict[str, int] = {}
    for _ in range(sessions):
        runs = {label: opener() for label, opener in opened.items()}
        for label, run in runs.items():
            run(x)
            started = time.perf_counter()
            run(x)
            repeats.setdefault(label, max(1, round(ROUND_SECONDS / (time.perf_counter() - started))))
        for turn in range(rounds):
            for label in list(runs) if turn % 2 else reversed(runs):
                started = time.perf_counter()
                for _ in range(repeats[label]):
                    runs[label](x)
                times[label].append(1000 * (time.perf_counter() - started) / repeats[label])
    return times


def paired(times: dict[str, list[float]], label: str, reference: str) -> float | None:
    """How many times faster ``label`` is than ``reference``: the median over the rounds."""
    if label not in times or reference not in times:
        return None
    ratios = [slow / fast for slow, fast in zip(times[reference], times[label], strict=True)]
    return round(statistics.median(ratios), 3)


def measure(name: str, batch: int, sessions: int, rounds: int) -> dict[str, Any]:
    size = SIZES[name]
    images = torch.randn(CALIBRATION, 3, size, size, generator=torch.Generator().manual_seed(1))
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        opened, sizes = entrants(name, images, batch, Path(folder))
        outputs = {label: torch.from_numpy(opener()(x).copy()) for label, opener in opened.items()}
        times = interleaved(opened, x, sessions, rounds)
    exact = outputs.pop("ORT fp32")
    noise = {label: round(sqnr_db(exact, found), 1) for label, found in outputs.items() if not label.endswith("pruned")}
    row: dict[str, Any] = {
        "model": name,
        "batch": batch,
        "ms": {label: round(statistics.median(found), 3) for label, found in times.items()},
        "times_ort_fp32": {label: paired(times, label, "ORT fp32") for label in times},
        "mcomp_over_quantize_static": paired(times, "ORT mcomp", "ORT quantize_static"),
        "mcomp_over_nncf": paired(times, "OV mcomp", "OV nncf"),
        "sqnr_db": noise,
        "bytes": sizes,
        "times_smaller": round(sizes["ORT fp32"] / sizes["ORT mcomp"], 2),
    }
    print(f"{name}, batch {batch}: {row['times_smaller']} x smaller than float")
    for label, speed in row["times_ort_fp32"].items():
        quality = f"   {noise[label]:6.1f} dB" if label in noise else ""
        print(f"  {label:20} {row['ms'][label]:9.3f} ms   {speed:5.2f} x ORT fp32{quality}")
    print(f"  mcomp / quantize_static {row['mcomp_over_quantize_static']}, mcomp / NNCF {row['mcomp_over_nncf']}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--sessions", type=int, default=5, help="how often everything is opened anew")
    parser.add_argument("--rounds", type=int, default=5, help="in each")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    absent = [package for package in ("openvino", "nncf") if find_spec(package) is None]
    if absent:
        print(f"left out, not installed: {', '.join(absent)}")
    rows = [
        measure(name, batch, arguments.sessions, arguments.rounds)
        for name in arguments.models
        for batch in arguments.batches
    ]
    if arguments.out:
        versions = {
            package: metadata.version(package)
            for package in ("torch", "onnx", "onnxruntime", "openvino", "nncf")
            if package not in absent
        }
        found = {
            "rows": rows,
            "versions": versions,
            "machine": platform.machine(),
            "sessions": arguments.sessions,
            "rounds": arguments.rounds,
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
