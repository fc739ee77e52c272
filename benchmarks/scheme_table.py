"""Claim: where bits can be told apart, LSQ is no worse than DoReFa, and 2 bits in steps beat 2 bits at once.

Every row is quantised from one float checkpoint and trained for as many epochs, in the one of three ways (SGD at two
learning rates, Adam) that does best on the validation images (8 bits in that of 4); top-1 is that of the test images,
read once. First and last layer have 8 bits in every scheme but the binary and ternary ones and DoReFa as its paper has
it, which leave them float. At 2 bits the schemes that can have one scale per output channel do: evenly spaced levels
over a whole layer's largest weight are three, and nearly all weights the one in the middle. ``progressive`` shares its
epochs out among 8, 4 and 2 bits; ``direct`` has all of them at 2 bits, ``w2a2`` as many as ``progressive`` has there.
``--steps`` compares 2 bits at once with a recipe of three equal stages; ``--nin`` quantises trained networks without
training instead.

    python benchmarks/scheme_table.py [--seeds 1] [--quick] [--out benchmarks/results/scheme_table.json]
    python benchmarks/scheme_table.py --steps [--seeds 1] [--out benchmarks/results/scheme_steps.json]
    python benchmarks/scheme_table.py --nin [--cifar FOLDER] [--out benchmarks/results/scheme_nin.json]

FOLDER holds CIFAR-10 as ``train/<class>/*`` and ``test/<class>/*``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mcomp
from mcomp.stages import StageResult

Training = dict[str, Any]
TRAININGS: tuple[Training, ...] = (
    {"optimizer": "sgd", "lr": 0.01},
    {"optimizer": "sgd", "lr": 0.04},
    {"optimizer": "adam", "lr": 0.002},
)
ENDS = {"position:first": {"w_bits": 8, "a_bits": 8}, "position:last": {"w_bits": 8, "a_bits": 8}}
UNIFORM = ("iao", "lsq", "lsq_plus", "dorefa", "pact", "ristretto")
PER_CHANNEL = ("iao", "dorefa", "pact")
AT_BITS = {
    f"{scheme} w{bits}a{bits}": {
        "scheme": scheme, "w_bits": bits, "a_bits": bits, "first_layer_float": False, "overrides": ENDS,
        **({"per_channel": True} if bits == 2 and scheme in PER_CHANNEL else {}),
    }
    for bits in (4, 8, 2)
    for scheme in UNIFORM
}  # fmt: skip
PAPER = {
    f"dorefa (paper) w{bits}a{bits}": {
        "scheme": "dorefa", "variant": "paper", "w_bits": bits, "a_bits": bits, "last_layer_float": True,
    }
    for bits in (4, 2)
}  # fmt: skip
FEW = {
    "ternary/float": {"scheme": "wbwtab", "w_bits": 2, "a_bits": 32},
    "binary/float": {"scheme": "wbwtab", "w_bits": 1, "a_bits": 32},
    "binary/binary": {"scheme": "wbwtab", "w_bits": 1, "a_bits": 1},
}
ROWS: dict[str, dict[str, Any]] = {**AT_BITS, **PAPER, **FEW}
#: Signs learn slowly: the same again with four times the epochs.
LONGER = {"binary/binary": 4}
#: Bits and epochs of each step; the direct way has all the epochs at the last bits.
STEPS = ((8, 1), (4, 1), (2, 2))
#: The same with as many epochs in each step, what a recipe of equal stages does.
EQUAL_STEPS = ((8, 2), (4, 2), (2, 2))
PROGRESSIVE = ("lsq", "dorefa")
WITHOUT_TRAINING = ("iao", "lsq", "lsq_plus", "dorefa", "pact", "ristretto")
MOST_POINTS = 0.5


def quantized(model: nn.Module, data: mcomp.data.Data, seed: int, epochs: int, **how: Any) -> StageResult:
    return mcomp.stages.quantize(model, data=data, seed=seed, epochs=epochs, device="cpu", **how)


def validation(result: StageResult) -> float:
    return float(result.details["history"][-1]["val_top1"])


def best(
    model: nn.Module, data: mcomp.data.Data, seed: int, epochs: int, how: dict[str, Any], ways: tuple[Training, ...]
) -> dict[str, Any]:
    tried = [quantized(model, data, seed, epochs, **training, **how) for training in ways]
    reached = [validation(result) for result in tried]
    place = reached.index(max(reached))
    return {"top1": tried[place].metrics["top1"], "training": ways[place], "val": reached}


def in_steps(
    model: nn.Module,
    data: mcomp.data.Data,
    seed: int,
    scheme: str,
    training: Training,
    steps: tuple[tuple[int, int], ...] = STEPS,
) -> StageResult:
    """8, 4 and 2 bits one after the other, each from the float weights that the one before it trained."""
    for bits, epochs in steps:
        result = quantized(model, data, seed, epochs, **training, **AT_BITS[f"{scheme} w{bits}a{bits}"])
        model = result.model
    return result


def float_network(seed: int, quick: bool) -> tuple[StageResult, mcomp.data.Data]:
    """The checkpoint that every row starts from."""
    options: dict[str, Any] = {"samples": 1500, "image_size": 16} if quick else {"samples": 7000, "image_size": 24}
    data = mcomp.data.load(name="two_digits", channels=1, **options)
    torch.manual_seed(seed)
    model = mcomp.models.nin(num_classes=data.num_classes, width=0.25, in_channels=1)
    return mcomp.stages.train(model, data=data, seed=seed, epochs=2 if quick else 16, device="cpu"), data


def equal_steps(seed: int, quick: bool) -> dict[str, Any]:
    """2 bits at once, and at the end of a recipe whose stages have as many epochs each; in the best of three ways."""
    trained, data = float_network(seed, quick)
    rows: dict[str, Any] = {"float": {"top1": trained.metrics["top1"]}}
    last = EQUAL_STEPS[-1][1]
    for scheme in PROGRESSIVE:
        how = ROWS[f"{scheme} w2a2"]
        rows[f"{scheme} at once"] = best(trained.model, data, seed, last, how, TRAININGS)
        tried = [in_steps(trained.model, data, seed, scheme, way, EQUAL_STEPS) for way in TRAININGS]
        reached = [validation(result) for result in tried]
        place = reached.index(max(reached))
        rows[f"{scheme} in steps"] = {
            "top1": tried[place].metrics["top1"], "training": TRAININGS[place], "val": reached,
        }  # fmt: skip
        once, steps = (rows[f"{scheme} {how}"]["top1"] for how in ("at once", "in steps"))
        print(f"{scheme}: at once {once:.2f} %, in steps {steps:.2f} %", flush=True)
    return rows


def table(seed: int, quick: bool) -> dict[str, Any]:
    trained, data = float_network(seed, quick)
    epochs = 1 if quick else 2
    rows: dict[str, Any] = {"float": {"top1": trained.metrics["top1"]}}
    print(f"float  {rows['float']['top1']:.2f} %", flush=True)
    for name, how in ROWS.items():
        ways = (rows[name.replace("w8a8", "w4a4")]["training"],) if name.endswith("w8a8") else TRAININGS
        rows[name] = best(trained.model, data, seed, epochs, how, ways)
        print(f"{name}  {rows[name]['top1']:.2f} %  {rows[name]['training']}", flush=True)
    for name, times in LONGER.items():
        longer = best(trained.model, data, seed, times * epochs, ROWS[name], (TRAININGS[-1],))
        rows[f"{name}, {times} times the epochs"] = longer
        print(f"{name}, {times} times the epochs  {longer['top1']:.2f} %", flush=True)
    for scheme in PROGRESSIVE:
        training, how = rows[f"{scheme} w2a2"]["training"], ROWS[f"{scheme} w2a2"]
        direct = quantized(trained.model, data, seed, sum(each for _, each in STEPS), **training, **how)
        for way, result in (("progressive", in_steps(trained.model, data, seed, scheme, training)), ("direct", direct)):
            rows[f"{scheme} 2 bits, {way}"] = {
                "top1": result.metrics["top1"], "training": training, "val": [validation(result)],
            }  # fmt: skip
            print(f"{scheme} 2 bits, {way}  {result.metrics['top1']:.2f} %", flush=True)
    return rows


def held(means: dict[str, float]) -> dict[str, bool]:
    """What the table must show, and whether it does."""
    claims = {
        f"lsq >= {other} at {bits} bits": means[f"lsq w{bits}a{bits}"] >= means[f"{other} w{bits}a{bits}"]
        for bits in (2, 4)
        for other in ("dorefa", "dorefa (paper)")
    }
    for scheme in PROGRESSIVE:
        progressive, direct = (means[f"{scheme} 2 bits, {way}"] for way in ("progressive", "direct"))
        claims[f"{scheme}: progressive beats as many epochs at 2 bits alone"] = progressive > means[f"{scheme} w2a2"]
        claims[f"{scheme}: progressive beats all its epochs at 2 bits"] = progressive > direct
    return claims


def without_training(cifar: Path | None, quick: bool) -> dict[str, Any]:
    """Top-1 of trained networks in float, and of each scheme at 8 bits from calibration alone."""
    sets: dict[str, Any] = {"digits": ({"name": "digits", "image_size": 16}, 0.25, 6)}
    sets["two_digits"] = ({"name": "two_digits", **({"samples": 1500, "image_size": 16} if quick else {})}, 0.25, 12)
    if cifar is not None:
        sets["cifar10 subset"] = ({"name": "image_folder", "root": str(cifar), "image_size": 32, "limit": 6000}, 0.5, 6)
    found = {}
    for name, (options, width, epochs) in sets.items():
        data = mcomp.data.load(**options)
        torch.manual_seed(0)
        model = mcomp.models.nin(num_classes=data.num_classes, width=width)
        trained = mcomp.stages.train(model, data=data, epochs=2 if quick else epochs, device="cpu")
        rows = {"float": trained.metrics["top1"]}
        for scheme in WITHOUT_TRAINING:
            result = mcomp.stages.quantize(trained.model, data=data, scheme=scheme, epochs=0, device="cpu")
            rows[scheme] = result.metrics["top1"]
        found[name] = {"test_images": len(data.test), "top1": rows}
        print(name, {scheme: round(top1, 2) for scheme, top1 in rows.items()}, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="a small set and few epochs: shows that it runs, not the claim"
    )
    parser.add_argument("--steps", action="store_true", help="2 bits at once against 8, 4 and 2, as many epochs each")
    parser.add_argument("--nin", action="store_true", help="8 bits without training")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as folders of images")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, wall = time.process_time(), time.time()
    report: dict[str, Any] = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
    if arguments.nin:
        sets = without_training(arguments.cifar, arguments.quick)
        report["sets"] = sets
        report["claims"] = {
            f"{name}: {scheme} within {MOST_POINTS} points of float": found["top1"]["float"] - top1 <= MOST_POINTS
            for name, found in sets.items()
            for scheme, top1 in found["top1"].items()
            if scheme != "float"
        }
    elif arguments.steps:
        seeds = [equal_steps(seed, arguments.quick) for seed in range(arguments.seeds)]
        means = {name: statistics.mean(rows[name]["top1"] for rows in seeds) for name in seeds[0]}
        claims = {
            f"{each}: in steps beats at once": means[f"{each} in steps"] > means[f"{each} at once"]
            for each in PROGRESSIVE
        }
        report.update(seeds=seeds, means=means, claims=claims)
    else:
        seeds = [table(seed, arguments.quick) for seed in range(arguments.seeds)]
        means = {name: statistics.mean(rows[name]["top1"] for rows in seeds) for name in seeds[0]}
        report.update(seeds=seeds, means=means, claims=held(means))
    report.update(cpu_seconds=round(time.process_time() - started), wall_seconds=round(time.time() - wall))
    for claim, holds in report["claims"].items():
        print("holds " if holds else "FAILS ", claim)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(report["claims"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
