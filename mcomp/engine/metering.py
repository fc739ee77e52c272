"""Figures the engine takes of every model that a stage hands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
