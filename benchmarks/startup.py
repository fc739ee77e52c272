"""Claim: mcomp's light commands start in a small multiple of bare Python, because none of them imports torch.

Each round runs every command once, in turn; the figure is the median over rounds of the ratio between the
command's CPU time (user + system, of the whole process) and that of ``python -c pass`` in the same round.

    python benchmarks/startup.py [--rounds 9] [--out benchmarks/results/startup.json]

The all-hits row needs a finished run of the flagship in the store (``mcomp apply`` it first); without one the row
is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = "recipes/nin_gc_prune_quant.yaml"
COMMANDS = {
    "--help": ["--help"],
    "validate": ["validate", RECIPE],
    "plan": ["plan", RECIPE],
    "apply, all hits": ["apply", RECIPE],
}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stderr.decode()}")
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def all_hits(mcomp: list[str]) -> bool:
    done = subprocess.run([*mcomp, "plan", RECIPE, "--json"], capture_output=True, text=True, check=True)
    return all(stage["status"] == "hit" for stage in json.loads(done.stdout)["stages"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.chdir(Path(__file__).parent.parent)
    mcomp = [sys.executable, "-m", "mcomp"]
    commands = {name: [*mcomp, *words] for name, words in COMMANDS.items()}
    if not all_hits(mcomp):
        del commands["apply, all hits"]
        print(f"left out `apply, all hits`: the store holds no finished run of {RECIPE}")
    commands["import torch"] = [sys.executable, "-c", "import torch"]
    ratios: dict[str, list[float]] = {name: [] for name in commands}
    bare: list[float] = []
    for name in commands:
        cpu_seconds(commands[name])  # warm the page cache and the bytecode
    for _ in range(arguments.rounds):
        # one bare start is some milliseconds: the mean of five steadies the divisor
        base = statistics.mean(cpu_seconds([sys.executable, "-c", "pass"]) for _ in range(5))
        bare.append(base)
        for name, command in commands.items():
            ratios[name].append(cpu_seconds(command) / base)
    result = {
        "unit": "CPU-time ratio to `python -c pass`, median of rounds",
        "rounds": arguments.rounds,
        "python": platform.python_version(),
        "bare_ms": round(1000 * statistics.median(bare), 2),
        "ratios": {name: round(statistics.median(values), 1) for name, values in ratios.items()},
    }
    print(f"bare Python: {result['bare_ms']} ms CPU; median of {arguments.rounds} rounds")
    for name, ratio in result["ratios"].items():
        print(f"  {name:<18} {ratio:7.1f} x")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
