from __future__ import annotations

import torch

from mcomp.metrics import interleaved, latency, model_latency
from mcomp.models import build


def test_functions_are_called_in_turn_after_their_warm_up() -> None:
    calls: list[str] = []
    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, warmup=1, runs=2)
    assert calls == ["a", "b"] * 3
    assert 0 <= found["a"].median_ms <= found["a"].p95_ms


def test_a_single_run_gives_a_latency() -> None:
    found = latency(lambda: None, warmup=0, runs=1, batch=4)
    assert found.median_ms == found.p95_ms
    assert found.batch == 4


def test_a_models_latency_says_batch_and_threads_and_restores_both_mode_and_threads() -> None:
    model = build("lenet", width=0.2).train()
    threads = torch.get_num_threads()
    found = model_latency(model, (torch.randn(2, 3, 8, 8),), batch=5, threads=1, warmup=0, runs=2)
    assert (found.batch, found.threads) == (5, 1)
    assert model.training
    assert torch.get_num_threads() == threads
