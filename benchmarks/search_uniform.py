"""Does searching pay? Searched bits against uniform bits of the same mean, searched widths against uniform ones.

Per seed one float network is trained on `two_digits` (a hundred classes, embedded). Then, with the same epochs, rate
and seed of training behind each:

* bits: every layer at ``b`` bits but the first and last at 8, against a search over all layers, 2 to 8 bits each, whose
  budgets are exactly the means, by weights and by inputs, that this uniform choice has;
* widths: every layer cut to the same share of its channels, against a search whose budget is the MACs that are left.

The search judges candidates untrained, on images held out of train; the figures printed are of the test images. Peer:
the uniform choice of the same library, so that nothing but the choice differs.

Run: ``python benchmarks/search_uniform.py --out benchmarks/results/search_uniform.json``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mcomp
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.network import layers_of

SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small set, one seed: shows that it runs, not the claim")
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 3], help="uniform bits to hold the search against")
    parser.add_argument("--share", type=float, nargs="*", default=[0.5], help="uniform shares of the channels to keep")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--algorithm", default="ga")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds[: 1 if arguments.quick else None]:
        size = {"samples": 1500, "image_size": 16} if arguments.quick else {"samples": 7000, "image_size": 24}
        data = mcomp.data.load("two_digits", **size)
        model = mcomp.models.build("nin", num_classes=100, in_shape=data.in_shape, width=0.25, seed=seed)
        trained = mcomp.stages.train(model, data=data, seed=seed, epochs=2 if arguments.quick else 16, device="cpu")
        print(f"seed {seed}: float {trained.metrics['top1']:.2f} %", flush=True)
        held = {"candidates": arguments.candidates, "algorithm": arguments.algorithm}
        for bits in arguments.bits:
            rows.append(
                {"seed": seed, "float": trained.metrics["top1"], **bit_row(trained.model, data, seed, bits, held)}
            )
            print(json.dumps(rows[-1]), flush=True)
        for share in arguments.share:
            rows.append(
                {"seed": seed, "float": trained.metrics["top1"], **width_row(trained.model, data, seed, share, held)}
            )
            print(json.dumps(rows[-1]), flush=True)
    summary = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        gains = [row["searched"] - row["uniform"] for row in rows if row["what"] == what]
        summary[what] = {"gain_points": gains, "mean": statistics.mean(gains), "always": min(gains) > 0}
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{what}: searched over uniform {statistics.mean(gains):+.2f} points ({each})")
    if arguments.out:
        found = {
            "command": "python benchmarks/search_uniform.py",
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "options": {name: value for name, value in vars(arguments).items() if name != "out"},
            "rows": rows,
            "summary": summary,
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def bit_row(model: nn.Module, data: Any, seed: int, bits: int, how: dict[str, Any]) -> dict[str, Any]:
    """Top-1 in percent after the same training, of uniform and of searched bits at the same means."""
    layers = layers_of(model, data.example_inputs)
    ends = {layers[0].name: 8, layers[-1].name: 8}
    means = {}
    for name, sizes in (
        ("avg_bit_weights", {each.name: each.weights for each in layers}),
        ("avg_bit_fm", {each.name: each.inputs for each in layers}),
    ):
        means[name] = sum(ends.get(layer, bits) * size for layer, size in sizes.items()) / sum(sizes.values())
    training = {"scheme": "lsq", "epochs": 3, "lr": 0.01, "seed": seed, "device": "cpu", "data": data}
    ones = {"overrides": {name: {"w_bits": 8, "a_bits": 8} for name in ends}}
    uniform = mcomp.stages.quantize(model, w_bits=bits, a_bits=bits, **ones, **training)
    begun = time.process_time()
    found = mcomp.stages.search(
        model,
        data=data,
        seed=seed,
        device="cpu",
        w_bits=[2, 8],
        a_bits=[2, 8],
        first_last_bits=None,
        budgets=means,
        **how,
    )
    seconds = time.process_time() - begun
    searched = mcomp.stages.quantize(found.model, bits="search", **training)
    return {
        "what": f"bits, uniform {bits}",
        "budgets": means,
        "uniform": uniform.metrics["top1"],
        "searched": searched.metrics["top1"],
        "untrained": {
            "searched": searched.metrics["top1_before_training"],
            "uniform": uniform.metrics["top1_before_training"],
        },
        "search_cpu_seconds": seconds,
        "costs": {name: value for name, value in found.metrics.items() if name.startswith("chosen_")},
    }


def width_row(model: nn.Module, data: Any, seed: int, share: float, how: dict[str, Any]) -> dict[str, Any]:
    """Top-1 in percent after the same finetuning, of uniform and of searched widths at the same MACs."""
    common = {"data": data, "seed": seed, "device": "cpu"}
    uniform = mcomp.stages.prune(model, keep={"*": share}, importance="l1", **common)
    begun = time.process_time()
    found = mcomp.stages.search(
        model, keep=[share / 2, 1.0], importance="l1", budgets={"macs": int(uniform.metrics["macs"])}, **how, **common
    )
    seconds = time.process_time() - begun
    searched = mcomp.stages.prune(found.model, keep="search", **common)
    after = [mcomp.stages.finetune(each.model, epochs=4, **common).metrics["top1"] for each in (uniform, searched)]
    cuts = RepeatedPruning(model, data.example_inputs)
    return {
        "what": f"widths, uniform {share}",
        "budgets": {"macs": uniform.metrics["macs"], "of": cuts.whole["macs"]},
        "uniform": after[0],
        "searched": after[1],
        "untrained": {"searched": searched.metrics["top1"], "uniform": uniform.metrics["top1"]},
        "search_cpu_seconds": seconds,
        "costs": {"macs": searched.metrics["macs"], "params": searched.metrics["params"]},
    }


if __name__ == "__main__":
    main()
