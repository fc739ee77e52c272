"""How many candidates of a search one CPU second tries, on the flagship network (nin_gc, 16 x 16 digits).

The cheap look measures batch norm statistics on 2 batches and counts 128 held-out images; the close one takes 16 steps
on scales and norms, up to 100 batches of statistics, and all held-out images. Both are timed as CPU time of one thread,
medians over candidates that are drawn at random, with bits, widths, or both searched. Peer: one forward pass of the
float network over the same 128 images, timed in turns with the candidates.

Run: ``python benchmarks/search_throughput.py --out benchmarks/results/search_throughput.json``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcomp
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.network_space import Budgets, network_space
from mcomp.search.study import Task
from mcomp.stages.searching.sample import judging_sample
from mcomp.stages.searching.setup import SearchSetup

CASES: dict[str, dict[str, Any]] = {
    "bits": {"w_bits": (2, 8), "a_bits": (2, 8), "budgets": Budgets(avg_bit_weights=4, avg_bit_fm=4)},
    "widths": {"w_bits": None, "a_bits": None, "keep": (0.3, 1.0), "budgets": Budgets(macs=0.5)},
    "both": {"keep": (0.3, 1.0), "budgets": Budgets(avg_bit_weights=4, avg_bit_fm=4, macs=0.5)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="candidates per case")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = mcomp.data.load("digits", image_size=16, batch_size=64)
    model = mcomp.models.build("nin_gc", num_classes=10, in_shape=data.in_shape, width=0.5, seed=0)
    trained = mcomp.stages.train(model, data=data, epochs=2, device="cpu").model
    sample = judging_sample(data, norm_batches=100, images=2048, seed=0)
    rows = {}
    for name, case in CASES.items():
        cuts = RepeatedPruning(trained, data.example_inputs, regular=8) if "keep" in case else None
        known = network_space(trained, data.example_inputs, pruning=cuts, **case)
        setup = SearchSetup(
            trained,
            data.example_inputs,
            sample.batches,
            sample.targets,
            sample.images,
            sample.labels,
            [(gene.layer, gene.kind) for gene in known.space.genes],
            None if cuts is None else {"regular": 8},
            None if case.get("w_bits", True) is None else {"scheme": "lsq"},
        )
        evaluate = setup.evaluator(cuts)
        generator = np.random.default_rng(0)
        times: dict[str, list[float]] = {"proxy": [], "full": [], "forward": []}
        for number in range(arguments.rounds + 1):
            genome = known.space.random(generator)
            for level in ("proxy", "full"):
                task = Task(number, level, genome)
                seconds, trial = cpu(partial(evaluate, task))
                assert trial.fitness is not None, trial.error
                times[level].append(seconds)
            with torch.no_grad():
                times["forward"].append(cpu(lambda: trained(sample.images[:128]))[0])
        median = {what: statistics.median(all_of[1:]) for what, all_of in times.items()}  # the first imports
        rows[name] = {
            "genes": len(known.space),
            "proxy_seconds": median["proxy"],
            "full_seconds": median["full"],
            "forward_seconds": median["forward"],
            "proxies_per_cpu_second": 1 / median["proxy"],
            "proxy_over_forward": median["proxy"] / median["forward"],
        }
        print(
            f"{name}: {1 / median['proxy']:.1f} cheap looks per CPU second "
            f"({median['proxy'] / median['forward']:.0f} x a forward pass), a close look {median['full']:.2f} s",
            flush=True,
        )
    if arguments.out:
        found = {
            "command": "python benchmarks/search_throughput.py",
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "rounds": arguments.rounds,
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the work gave."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


if __name__ == "__main__":
    main()
