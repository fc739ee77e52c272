"""Latency in milliseconds, with the batch size and thread count beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mcomp.metrics.accuracy import in_eval_mode
from mcomp.metrics.samples import with_samples
from mcomp.metrics.threads import threads as intra_op_threads


@dataclass(frozen=True)
class Latency:
    """Wall time of one call.

    Attributes:
        median_ms: the middle of all timed runs, milliseconds.
        p95_ms: the 95th percentile, milliseconds.
        batch: samples per call.
        threads: intra-op threads of torch (or of the runtime that was timed).
    """

    median_ms: float
    p95_ms: float
    batch: int = 1
    threads: int = 1


def latency(fn: Callable[[], object], *, warmup: int = 5, runs: int = 30, batch: int = 1) -> Latency:
    """Time ``fn()``: ``warmup`` calls unmeasured, then ``runs`` calls."""
    return interleaved({"": fn}, warmup=warmup, runs=runs, batch=batch)[""]


def interleaved(
    fns: Mapping[str, Callable[[], object]], *, warmup: int = 5, runs: int = 30, batch: int = 1
) -> dict[str, Latency]:
    """Time several functions in turn, round by round, so that a busy machine is equally unfair to all.

    Ratios between the results hold even where the absolute figures do not.
    """
    for _ in range(warmup):
        for fn in fns.values():
            fn()
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(max(runs, 1)):
        for name, fn in fns.items():
            start = time.perf_counter()
            fn()
            seconds[name].append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    return {name: _summary(times, batch, threads) for name, times in seconds.items()}


def model_latency(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    batch: int = 1,
    threads: int | None = 1,
    warmup: int = 5,
    runs: int = 30,
) -> Latency:
    """Time a model's forward pass in eval and inference mode on the device it lives on.

    Args:
        model: left as it was.
        example_inputs: a batch the model accepts; repeated or cut to ``batch`` samples.
        batch: samples per forward pass.
        threads: intra-op threads while timing; None keeps the current number.
        warmup: unmeasured calls.
        runs: measured calls.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    inputs = on_device(with_samples(example_inputs, batch), device)

    def forward() -> None:
        model(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode(), in_eval_mode(model), intra_op_threads(threads):
        found = latency(forward, warmup=warmup, runs=runs, batch=batch)
    return replace(found, threads=threads or found.threads)


def on_device(inputs: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """The inputs with every tensor on ``device``."""
    found: tuple[Any, ...] = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)
    return found


def batch_of(tensor: Tensor, batch: int) -> Tensor:
    """Repeated or cut to ``batch`` samples."""
    repeats = -(-batch // tensor.size(0))
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:batch].contiguous()


def _summary(seconds: list[float], batch: int, threads: int) -> Latency:
    ordered = sorted(seconds)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Latency(1000 * median, 1000 * p95, batch, threads)
