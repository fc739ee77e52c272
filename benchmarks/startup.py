"""Claim: mcomp's light commands start in a small multiple of bare Python, because none of them imports torch.

Each round runs every command once, in turn; the figure is the median over rounds of the ratio between the
command's CPU time (user + system, of the whole process) and that of ``python -c pass`` in the same round.

    python benchmarks/startup.py [--rounds 9] [--store .mcomp] [--out benchmarks/results/startup.json]

The all-hits row needs a finished run of the flagship in the store (``mcomp apply`` it first); without one the row
is left out, and says so. `plan` and `explain` are timed on the same store; where there is none, a checkout's own code
is digested anew at each start, as it is not in a release. Exits 1 where a command is above its limit.
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
ALL_HITS = "apply, all hits"
COMMANDS = {
    "--help": ["--help"],
    "validate": ["validate", RECIPE],
    "plan": ["plan", RECIPE, "--store", "STORE"],
    "explain": ["explain", RECIPE, "quantize", "--store", "STORE"],
    ALL_HITS: ["apply", RECIPE, "--store", "STORE"],
}
LIMITS = {"--help": 3, "validate": 20, "plan": 25, "explain": 25, ALL_HITS: 30}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stderr.decode()}")
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def all_hits(mcomp: list[str], store: str) -> bool:
    command = [*mcomp, "plan", RECIPE, "--store", store, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return all(stage["status"] == "hit" for stage in json.loads(done.stdout)["stages"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", default=".mcomp")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.chdir(Path(__file__).parent.parent)
    mcomp = [sys.executable, "-m", "mcomp"]
    commands = {
        name: [*mcomp, *(arguments.store if word == "STORE" else word for word in words)]
        for name, words in COMMANDS.items()
    }
    if not all_hits(mcomp, arguments.store):
        del commands[ALL_HITS]
        print(f"left out `{ALL_HITS}`: the store holds no finished run of {RECIPE}")
    commands["import torch"] = [sys.executable, "-c", "import torch"]
    ratios, bare = measured(commands, arguments.rounds)
    result = {
        "unit": "CPU-time ratio to `python -c pass`, median of rounds",
        "rounds": arguments.rounds,
        "python": platform.python_version(),
        "bare_ms": round(1000 * bare, 2),
        "limits": LIMITS,
        "ratios": ratios,
    }
    print(f"bare Python: {result['bare_ms']} ms CPU; median of {arguments.rounds} rounds")
    for name, ratio in ratios.items():
        print(f"  {name:<18} {ratio:7.1f} x" + (f"   (limit {LIMITS[name]})" if name in LIMITS else ""))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(ratios[name] > limit for name, limit in LIMITS.items() if name in ratios))


def measured(commands: dict[str, list[str]], rounds: int) -> tuple[dict[str, float], float]:
    """Median ratio of each command, and the median seconds of a bare start."""
    ratios: dict[str, list[float]] = {name: [] for name in commands}
    bare: list[float] = []
    for command in commands.values():
        cpu_seconds(command)  # warm the page cache and the bytecode
    for _ in range(rounds):
        # one bare start is some milliseconds: the mean of five steadies the divisor
        base = statistics.mean(cpu_seconds([sys.executable, "-c", "pass"]) for _ in range(5))
        bare.append(base)
        for name, command in commands.items():
            ratios[name].append(cpu_seconds(command) / base)
    return {name: round(statistics.median(values), 1) for name, values in ratios.items()}, statistics.median(bare)


if __name__ == "__main__":
    raise SystemExit(main())
