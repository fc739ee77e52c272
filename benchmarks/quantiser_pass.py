"""Claim: a pass through any quantiser of ours, forward and backward, costs less than PyTorch's own fused operator.

Both take turns on the same tensors in one process on one thread; a figure is the median over rounds of the CPU time,
and a ratio is the median of the rounds' ratios. Ranges are known beforehand, except that our weight quantisers and
their peers find them in every pass, as training does. Observers are timed per batch against min-max.

    python benchmarks/quantiser_pass.py [--rounds 25] [--out benchmarks/results/quantiser_pass.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.observers import build_observer
from mcomp.quantization.quantizers import (
    AffineQuantizer,
    BinaryActivation,
    BinaryWeight,
    DoReFaActivation,
    DoReFaWeight,
    LSQPlusQuantizer,
    LSQuantizer,
    PACTQuantizer,
    Quantizer,
    RistrettoQuantizer,
    TernaryWeight,
)

ACTIVATION, WEIGHT, OBSERVED = (16, 64, 32, 32), (256, 256, 3, 3), (32, 64, 56, 56)
REPEATS = 3
OBSERVER_LIMIT = 5.0

Pass = Callable[[Tensor], Tensor]
SCALE, ZERO = torch.tensor(0.02), torch.tensor(0, dtype=torch.int32)


def per_tensor(x: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, SCALE, ZERO, -128, 127)


def per_tensor_weight(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x.detach())
    scale = torch.maximum(-low, high) / 127
    return torch.fake_quantize_per_tensor_affine(x, scale, ZERO, -128, 127)


def tanh_weight(x: Tensor) -> Tensor:
    return per_tensor_weight(x.tanh())


def per_channel_weight(x: Tensor) -> Tensor:
    flat = x.detach().flatten(1)
    scale = torch.maximum(-flat.amin(1), flat.amax(1)) / 127
    return torch.fake_quantize_per_channel_affine(x, scale, ZERO.expand(len(x)), 0, -128, 127)


class Learnable:
    """PyTorch's learnable operator, gradients of scale and zero point included."""

    def __init__(self) -> None:
        self.scale, self.zero = torch.tensor([0.02], requires_grad=True), torch.tensor([0.0], requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` on its grid."""
        return torch._fake_quantize_learnable_per_tensor_affine(x, self.scale, self.zero, -128, 127, 1.0)


def known(quantizer: Quantizer, low: float = -2.54) -> Quantizer:
    quantizer.set_range(low, 2.54)
    return quantizer.train()


def pairs() -> dict[str, tuple[Pass, Pass, str]]:
    """Ours, the peer, and the peer's name."""
    tensor, channel = "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"
    learnable = "_fake_quantize_learnable_per_tensor_affine"
    affine = {"observer": "mse"}
    plain: dict[str, tuple[Pass, Pass, str]] = {
        "affine activation, signed": (known(AffineQuantizer(**affine)), per_tensor, tensor),
        "affine activation, not negative": (
            known(AffineQuantizer(**affine, signed=False, nonnegative_input=True), 0.0),
            per_tensor,
            tensor,
        ),
        "affine activation, asymmetric": (known(AffineQuantizer(8, False, **affine, signed=False)), per_tensor, tensor),
        "affine activation, moving average": (known(AffineQuantizer(observer="moving_average")), per_tensor, tensor),
        "DoReFa activation": (known(DoReFaActivation(8, signed=True)), per_tensor, tensor),
        "DoReFa activation, paper": (DoReFaActivation(8, "paper").train(), per_tensor, tensor),
        "Ristretto activation": (known(RistrettoQuantizer(observer="minmax")), per_tensor, tensor),
        "binary activation": (BinaryActivation().train(), per_tensor, tensor),
        "binary activation, soft": (BinaryActivation("soft_ste").train(), per_tensor, tensor),
        "LSQ activation": (known(LSQuantizer(8, True)), Learnable(), learnable),
        "LSQ+ activation": (known(LSQPlusQuantizer(8)), Learnable(), learnable),
        "PACT activation": (known(PACTQuantizer(8, True)), Learnable(), learnable),
        "affine weight, per channel": (AffineQuantizer(channel_axis=0), per_channel_weight, channel),
        "affine weight, per layer": (AffineQuantizer(), per_tensor_weight, tensor),
        "affine weight, asymmetric": (AffineQuantizer(8, False, 0), per_channel_weight, channel),
        "DoReFa weight, per channel": (DoReFaWeight(8, per_channel=True), per_channel_weight, channel),
        "DoReFa weight": (DoReFaWeight(8), per_tensor_weight, tensor),
        "DoReFa weight, paper": (DoReFaWeight(8, "paper"), tanh_weight, f"tanh, {tensor}"),
        "Ristretto weight": (RistrettoQuantizer(), per_tensor_weight, tensor),
        "binary weight": (BinaryWeight(), per_channel_weight, channel),
        "ternary weight": (TernaryWeight(), per_channel_weight, channel),
        "LSQ weight": (known(LSQuantizer(8, True, of_weight=True)), Learnable(), learnable),
    }
    return plain


def cpu_ms(work: Callable[[], Any]) -> float:
    started = time.process_time()
    for _ in range(REPEATS):
        work()
    return 1000 * (time.process_time() - started) / REPEATS


def alternate(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Medians of both, and of their ratio."""
    ours(), theirs()
    times = [(cpu_ms(ours), cpu_ms(theirs)) for _ in range(rounds)]
    mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, peer, statistics.median(mine / peer for mine, peer in times)


def passes(rounds: int, dtype: torch.dtype, layout: torch.memory_format) -> list[dict[str, Any]]:
    rows = []
    for name, (ours, theirs, peer) in pairs().items():
        of_weight = "weight" in name
        if of_weight and dtype != torch.float32:
            continue  # weights stay float32 under autocast
        x = torch.randn(WEIGHT if of_weight else ACTIVATION).to(dtype, memory_format=layout)
        x = (x.abs() if "not negative" in name else x).requires_grad_()
        grad = torch.randn_like(x)

        def step(quantise: Pass, x: Tensor = x, grad: Tensor = grad) -> None:
            quantise(x).backward(grad)
            x.grad = None

        mine, other, ratio = alternate(lambda f=ours: step(f), lambda f=theirs: step(f), rounds)
        rows.append({"quantiser": name, "ms": mine, "peer": peer, "peer_ms": other, "ratio": ratio})
        print(f"  {name:36} {mine:7.3f} ms   {peer:44} {other:7.3f} ms   {ratio:5.2f}")
    return rows


def observers(rounds: int) -> list[dict[str, Any]]:
    x = torch.randn(OBSERVED).relu_()
    rows = []
    for name in ("moving_average", "percentile", "mse", "entropy"):
        observer, minmax = build_observer(name), build_observer("minmax")
        mine, other, ratio = alternate(lambda o=observer: o.update(x), lambda o=minmax: o.update(x), rounds)
        started = time.process_time()
        observer.clip(255, False)
        once = 1000 * (time.process_time() - started)
        rows.append({"observer": name, "ms": mine, "minmax_ms": other, "ratio": ratio, "range_ms": once})
        print(f"  {name:36} {mine:7.3f} ms   {'minmax':44} {other:7.3f} ms   {ratio:5.2f}   (+ {once:.1f} ms once)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"float32, activations {ACTIVATION}, weights {WEIGHT}: ours, the peer, ours / peer")
    found: dict[str, Any] = {"float32": passes(arguments.rounds, torch.float32, torch.contiguous_format)}
    print("bfloat16, channels last")
    found["bfloat16"] = passes(arguments.rounds, torch.bfloat16, torch.channels_last)
    print(f"observers per batch of {OBSERVED} (aim: at most {OBSERVER_LIMIT})")
    found["observers"] = observers(arguments.rounds)
    ratios = [row["ratio"] for row in (*found["float32"], *found["bfloat16"])]
    slowest = max(row["ratio"] for row in found["observers"])
    print(f"slowest quantiser: {max(ratios):.2f} of its peer; slowest observer: {slowest:.2f} x min-max")
    if arguments.out:
        found |= {"torch": torch.__version__, "machine": platform.machine(), "rounds": arguments.rounds}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
