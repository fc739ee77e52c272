"""Figures the engine takes of every model that a stage hands on, and of the work that it was."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.stages.base import Metrics


def common_metrics(model: nn.Module, example_inputs: tuple[Tensor, ...], bytes_on_disk: int) -> Metrics:
    """``params``, ``macs`` of one sample, ``bytes`` of the artifact, ``latency_ms`` in eager PyTorch.

    Latency is the median at batch 1 on one thread. A stage that deploys a file overrides ``bytes`` and
    ``latency_ms`` with that file's own.
    """
    from mcomp.metrics import count, model_latency

    cost = count(model, example_inputs)
    latency = model_latency(model, example_inputs, batch=1, threads=1)
    return {
        "params": cost.params,
        "macs": cost.macs,
        "bytes": bytes_on_disk,
        "latency_ms": round(latency.median_ms, 4),
        "latency_backend": "torch",
        "latency_batch": 1,
        "latency_threads": 1,
    }


class Effort:
    """Time and memory from here on; later plans forecast from it.

    Args:
        device: where the stage computes, resolved.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        _forget_peak()
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self) -> dict[str, Any]:
        """``seconds``, ``cpu_seconds`` of all threads, ``peak_memory_bytes`` resident, and ``peak_cuda_bytes``."""
        found: dict[str, Any] = {
            "seconds": round(time.perf_counter() - self._wall, 3),
            "cpu_seconds": round(time.process_time() - self._cpu, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if self._device.startswith("cuda"):
            import torch

            found["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return found


def peak_memory_bytes() -> int:
    """The largest resident set of this process: since the last :class:`Effort` on Linux, else since its start."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _forget_peak() -> None:
    """Let the kernel count the peak anew (proc(5), ``clear_refs``), so that one stage's peak is not the next one's."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # no Linux, or a sandbox that forbids it: the peak is then the process's own
        return
