"""Claim: mcomp prunes every vision model of torchvision unaided, exactly, and no slower than Torch-Pruning.

Each model (80 classifiers, and the detectors and segmenters at a small input, random weights) is pruned to half of its
channels, per layer, widths in multiples of 8, with no word about the model itself. Beside it, in turn, Torch-Pruning
(the peer) is asked for the same, told as in its documentation only which layer is the output. Every run is a process of
its own with one thread, and limits of time and memory; both tools have pruned a tiny network before the clock starts.
The figures are CPU seconds of tracing and surgery (mcomp's self-check apart) and the share of the MACs that stays.

    python benchmarks/prune_zoo.py [--only NAME ...] [--skip-peer] [--wall SECONDS] [--out FILE] [--update FILE]

``--update benchmarks/results/prune_zoo.json --only NAME`` measures some models again and keeps what the file says of
the others; a row tells the wall-clock limit that it ran under where that was not the usual one.

Exits 1 where mcomp fails on a model, exceeds its limits of seconds, or is slower than the peer where both succeed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MEDIAN_S, WORST_S = 1.0, 5.0
SHARES = (0.20, 0.32)
REGULAR = 8
WALL_S, MEMORY = 60, 16 << 30
PEER = "torch-pruning"


def model_names() -> list[str]:
    """Classifiers, then detectors and segmenters."""
    from torchvision import models

    rooms = (models, models.detection, models.segmentation)
    return [name for room in rooms for name in models.list_models(module=room)]


def build(name: str) -> tuple[Any, tuple[Any, ...]]:
    """The model in eval mode, and the smallest input that suits it: detectors would enlarge theirs to 800 pixels."""
    import torch
    from torchvision import models

    options: Row = {"weights": None}
    size = 299 if name == "inception_v3" else 224
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # as they come from a checkpoint: it is slow, and changes no figure
    if name in models.list_models(module=models.segmentation) + models.list_models(module=models.detection):
        options["weights_backbone"] = None
        size = 320 if name.startswith("ssd") else 128
    if name.startswith(("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos")):
        options |= {"min_size": size, "max_size": size}
    torch.manual_seed(0)
    return models.get_model(name, **options).eval(), (torch.randn(1, 3, size, size),)


def by_mcomp(model: Any, inputs: tuple[Any, ...]) -> Row:
    """Prune with mcomp; seconds of the self-check that passed apart from all the rest, checks that failed included."""
    from mcomp.pruning import prune, structured

    checks, wrapped = [], structured.check

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        proof = wrapped(*arguments)
        checks.append(time.process_time() - started)
        return proof

    structured.check = timed
    started = time.process_time()
    try:
        result = prune(model, inputs, ratio=0.5, importance="l1", scope="per_layer", regular=REGULAR)
    finally:
        structured.check = wrapped
    seconds = time.process_time() - started
    return {
        "model": result.model,
        "seconds": seconds - sum(checks),
        "check_seconds": sum(checks),
        "error": result.max_error,
        "notes": [note[:300] for note in result.notes],
    }


def by_peer(model: Any, inputs: tuple[Any, ...]) -> Row:
    """Prune with Torch-Pruning, in place."""
    import torch_pruning
    from torch import nn

    outputs = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == 1000]
    started = time.process_time()
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        inputs[0],
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        round_to=REGULAR,
        ignored_layers=outputs,
    )
    pruner.step()
    return {"model": model, "seconds": time.process_time() - started}


TOOLS: dict[str, Callable[[Any, tuple[Any, ...]], Row]] = {"mcomp": by_mcomp, PEER: by_peer}


def run_one(tool: str, name: str) -> Row:
    """Prune one model with one tool in this process: what came of it."""
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the models and of the peer; mcomp's own tests have warnings as errors
    warm_up(TOOLS[tool])
    model, inputs = build(name)
    before, macs = widths(model), macs_of(model, inputs)
    gc.collect()  # a collection of what building the model left behind is no part of either tool's work
    row = TOOLS[tool](model, inputs)
    pruned = row.pop("model")
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    after = widths(pruned)
    cut = {layer: width for layer, width in after.items() if width != before[layer]}
    row["cut_layers"] = len(cut)
    row["irregular"] = {layer: width for layer, width in cut.items() if width % REGULAR}
    with torch.no_grad():
        pruned.eval()(*inputs)
    row["macs_share"] = round(macs_of(pruned, inputs) / macs, 4)
    return row


def warm_up(tool: Callable[[Any, tuple[Any, ...]], Row]) -> None:
    """PyTorch imports parts of itself when they are first used."""
    import torch
    from torch import nn

    head = nn.Linear(32, 1000)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    tool(net.eval(), (torch.randn(2, 3, 8, 8),))


def widths(model: Any) -> dict[str, int]:
    """Output channels of every layer."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            found[name] = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            found[name] = module.weight.shape[0]
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found[f"{name}.in_proj"] = module.in_proj_weight.shape[0]
    return found


def macs_of(model: Any, inputs: tuple[Any, ...]) -> int:
    """Of one sample. Of a detector, every candidate counted, whatever the scores are."""
    from mcomp.metrics import count
    from mcomp.pruning import trace

    if any(type(module).__name__ == "GeneralizedRCNNTransform" for module in model.modules()):
        return trace(model, inputs).trace.macs // len(inputs[0])
    return count(model, inputs).macs


def in_a_process(tool: str, name: str, wall_s: int) -> Row:
    """What :func:`run_one` says, or why it says nothing."""
    command = [sys.executable, __file__, "--one", tool, name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=wall_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"no result within {wall_s} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: Row = json.loads(lines[-1])
        return found if wall_s == WALL_S else {**found, "wall_limit_s": wall_s}
    said = done.stderr.strip().splitlines()
    return {"failure": f"exit {done.returncode}: {said[-1][:200] if said else 'nothing on stderr'}"}


def is_sound(row: Row) -> bool:
    """Whether the network was pruned, to the widths that were asked for."""
    return "failure" not in row and not row["irregular"] and row["cut_layers"] > 0 and row["macs_share"] < 1


def shown(name: str, rows: dict[str, Row]) -> str:
    words = [f"{name:<38}"]
    for tool, row in rows.items():
        if "failure" in row:
            words.append(f"{tool}: {row['failure'][:90]}")
            continue
        text = f"{tool}: {row['seconds']:7.2f} s, MACs x {row['macs_share']:.3f}"
        if tool == "mcomp":
            text += f", check {row['check_seconds']:6.1f} s, error {row['error']:.0e}"
        if row["irregular"]:
            text += f", {len(row['irregular'])} widths are no multiples of {REGULAR}"
        words.append(text)
    return "  ".join(words)


def summary_of(rows: dict[str, dict[str, Row]]) -> Row:
    """Counts, medians and exceptions per tool, and the models on which mcomp was the slower one."""
    found: Row = {}
    for tool in TOOLS:
        mine = {name: row[tool] for name, row in rows.items() if tool in row}
        good = {name: row for name, row in mine.items() if is_sound(row)}
        if not mine:
            continue
        seconds = {name: row["seconds"] for name, row in good.items()} or {"none": float("nan")}
        slowest = max(seconds, key=lambda name: seconds[name])
        found[tool] = {
            "sound": len(good),
            "of": len(mine),
            "median_s": round(statistics.median(seconds.values()), 3),
            "worst_s": round(seconds[slowest], 3),
            "slowest": slowest,
            "share_median": round(statistics.median([row["macs_share"] for row in good.values()] or [1.0]), 3),
            "share_outside": {
                name: row["macs_share"] for name, row in good.items() if not SHARES[0] <= row["macs_share"] <= SHARES[1]
            },
            "exceptions": {
                name: row.get("failure") or f"irregular: {row['irregular']}, {row['cut_layers']} layers cut"
                for name, row in mine.items()
                if name not in good
            },
        }
    found["slower_than_peer"] = {
        name: [round(row[tool]["seconds"], 3) for tool in TOOLS]
        for name, row in rows.items()
        if all(tool in row and is_sound(row[tool]) for tool in TOOLS) and row["mcomp"]["seconds"] > row[PEER]["seconds"]
    }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models; all, where it is left out")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--wall", type=int, default=WALL_S, metavar="SECONDS", help="limit of one run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--update", type=Path, help="a file of earlier figures, to read and to write")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(*arguments.one)))
        return 0
    tools = ["mcomp"] if arguments.skip_peer else list(TOOLS)
    rows: dict[str, dict[str, Row]] = {}
    written = arguments.update or arguments.out
    if arguments.update:
        rows = json.loads(arguments.update.read_text())["models"]
    for number, name in enumerate(arguments.only or model_names()):
        turn = tools if number % 2 else tools[::-1]  # neither always runs on the warmer cache
        found = {tool: in_a_process(tool, name, arguments.wall) for tool in turn}
        rows[name] = {tool: found[tool] for tool in tools}
        print(shown(name, rows[name]), flush=True)
        if written:
            written.write_text(json.dumps(report(rows), indent=2) + "\n")
    summary = summary_of(rows)
    print(json.dumps(summary, indent=2))
    mine = summary["mcomp"]
    slow = not (mine["median_s"] <= MEDIAN_S and mine["worst_s"] <= WORST_S)
    return int(mine["sound"] < mine["of"] or slow or bool(summary["slower_than_peer"]))


def report(rows: dict[str, dict[str, Row]]) -> Row:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {
        "unit": "CPU seconds of tracing and surgery, one thread; share of the MACs that stays",
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in ("torch", "torchvision", PEER)},
        "limits": {"median_s": MEDIAN_S, "worst_s": WORST_S, "macs_share": SHARES, "regular": REGULAR},
        "summary": summary_of(rows),
        "models": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
