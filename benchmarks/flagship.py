"""Claim: the flagship recipe, from nothing to a measured INT8 file, takes about a minute of two cores; again, no time.

Runs ``recipes/nin_gc_prune_quant.yaml`` on an empty store (cold), then again (warm), per seed, each in a fresh
process, and prints per-stage CPU seconds, wall time, peak memory and the final figures. Then what pruning and
quantisation gain each, and together: the trained network in float, the pruned one in float and the INT8 file made for
ONNX Runtime, in turns within one process, on one thread of it.

    python benchmarks/flagship.py [--seeds 0 1 2] [--out benchmarks/results/flagship.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RECIPE = "recipes/nin_gc_prune_quant.yaml"
SPEED_ROUNDS = 300
BATCHES = (1, 32)


def apply(store: str, seed: int) -> dict[str, Any]:
    """One run in a fresh process: its ``--json`` object, with wall and CPU seconds and peak bytes of the process."""
    command = [sys.executable, "-m", "mcomp", "apply", RECIPE, "--set", f"seed={seed}", "--store", store, "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    found: dict[str, Any] = json.loads(output)
    found["exit"] = os.waitstatus_to_exitcode(status)
    found["wall_s"] = round(time.perf_counter() - started, 2)
    found["cpu_s"] = round(usage.ru_utime + usage.ru_stime, 2)
    found["peak_bytes"] = usage.ru_maxrss * 1024
    return found


def stage_cpu(store: str, run: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of each stage, from the store's action records."""
    seconds = {}
    for stage in run["stages"]:
        record = Path(store) / "actions" / stage["key"][:2] / f"{stage['key']}.json"
        seconds[stage["id"]] = json.loads(record.read_text())["record"]["cpu_seconds"]
    return seconds


def artifact(store: str, run: dict[str, Any], stage: str) -> Path:
    """Where the store has the model that a stage ended with."""
    digest = next(each["artifact"] for each in run["stages"] if each["id"] == stage)
    return Path(store) / "objects" / digest[:2] / digest


def write_files(store: str, run: dict[str, Any], folder: Path) -> dict[str, Path]:
    """The network as it was trained, as it was pruned, and the quantised one, as ONNX files; BN folded in all."""
    import mcomp

    images = mcomp.data.load(name="digits", image_size=16).example_inputs
    sources = {"float": ("train", "float"), "pruned": ("finetune", "float"), "int8": ("bn_fuse", "onnxruntime")}
    return {
        name: mcomp.deploy.to_onnx(
            mcomp.load_model(artifact(store, run, stage)), images, folder / f"{name}.onnx", profile
        ).path
        for name, (stage, profile) in sources.items()
    }


def speedups(files: dict[str, Path], batch: int) -> dict[str, float]:
    """How many times faster than the float network each file is, paired; of the INT8 file, also than the pruned."""
    from mcomp.deploy.contestants import inputs_of, of_file
    from mcomp.metrics.comparison import compare

    inputs = inputs_of(files["float"], batch)
    calls = {name: of_file(path, "onnxruntime", inputs, threads=1).call for name, path in files.items()}
    timed = compare(calls, warmup=20, rounds=SPEED_ROUNDS)
    times = {f"{name}_ms": round(timed[name].median_ms, 4) for name in calls}
    gains = {"pruning": timed["pruned"].speedup, "both": timed["int8"].speedup}
    gains["quantisation"] = compare({name: calls[name] for name in ("pruned", "int8")}, rounds=SPEED_ROUNDS)[
        "int8"
    ].speedup
    return times | {name: round(gain, 2) for name, gain in gains.items()}


def measure(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as store:
        cold = apply(store, seed)
        warm = apply(store, seed)
        if cold["exit"] or warm["exit"]:
            raise SystemExit(f"seed {seed}: exit {cold['exit']} and {warm['exit']}: {cold.get('errors')}")
        stages = {stage["id"]: stage["metrics"] for stage in cold["stages"]}
        last = stages["trt_int8"]
        files = write_files(store, cold, Path(store))
        return {
            "seed": seed,
            "cold": {name: cold[name] for name in ("wall_s", "cpu_s", "peak_bytes")},
            "warm": {name: warm[name] for name in ("wall_s", "cpu_s", "peak_bytes")},
            "warm_hits": sum(stage["status"] == "hit" for stage in warm["stages"]),
            "stage_cpu_s": stage_cpu(store, cold),
            "top1": {name: round(metrics["top1"], 3) for name, metrics in stages.items() if "top1" in metrics},
            "params_ratio": round(stages["prune"]["params"] / stages["train"]["params"], 4),
            "int8_bytes": last["bytes"],
            "unpruned_fp32_onnx_bytes": files["float"].stat().st_size,
            "drop_from_baseline_points": round(stages["train"]["top1"] - last["top1"], 3),
            "agreement": last["agreement"],
            "latency_ms": last["latency_ms"],
            "times_faster": {str(batch): speedups(files, batch) for batch in BATCHES},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.chdir(Path(__file__).parent.parent)
    runs = [measure(seed) for seed in arguments.seeds]
    for run in runs:
        cold, warm = run["cold"], run["warm"]
        peak = f"{cold['peak_bytes'] / 1e9:.2f} GB peak"
        print(f"seed {run['seed']}: cold {cold['wall_s']} s wall, {cold['cpu_s']} s CPU, {peak};")
        print(f"  warm {warm['wall_s']} s wall, {warm['cpu_s']} s CPU, {run['warm_hits']} hits")
        for stage, seconds in run["stage_cpu_s"].items():
            top1 = run["top1"].get(stage)
            print(f"  {stage:<14} {seconds:7.2f} CPU s   top-1 {'–' if top1 is None else f'{top1:.2f} %'}")
        share = 100 * run["int8_bytes"] / run["unpruned_fp32_onnx_bytes"]
        sizes = f"params {100 * run['params_ratio']:.1f} %, INT8 file {run['int8_bytes']} bytes, {share:.1f} % of fp32"
        print(f"  {sizes}; drop {run['drop_from_baseline_points']:.2f} points, agreement {run['agreement']:.2f} %")
        for batch, gain in run["times_faster"].items():
            parts = f"pruning {gain['pruning']:.2f} x, quantisation {gain['quantisation']:.2f} x"
            print(f"  batch {batch}: {gain['both']:.2f} x as fast as its float network ({parts})")
    result = {
        "recipe": RECIPE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "peak_unit": "bytes of resident memory of the whole process",
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "runs": runs,
        "agreement_pooled": round(sum(run["agreement"] for run in runs) / len(runs), 3),
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
