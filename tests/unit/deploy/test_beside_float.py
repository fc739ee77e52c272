"""A deployed file that gains nothing over float is called what it is."""

from __future__ import annotations

import pytest

from mcomp.deploy.beside_float import size_beside_float, speed_beside_float
from mcomp.metrics import Latency


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (10_000, "`m.onnx` is 4.00 × smaller than its float file: 10.0 kB, in fp32 40.0 kB"),
        (40_001, "`m.onnx` is larger than its float file: 40.0 kB, in fp32 40.0 kB"),
    ],
)
def test_a_file_that_grew_is_called_larger(size: int, told: str) -> None:
    assert size_beside_float("m.onnx", size, 40_000) == told


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (0.5, "`m.onnx` is 4.00 × as fast as its float file in onnxruntime at batch 32 on 2 threads: "
              "0.5 ms, fp32 2 ms"),
        (2.001, "`m.onnx` is as fast as its float file in onnxruntime at batch 32 on 2 threads: 2 ms, fp32 2 ms"),
        (4.0, "`m.onnx` is slower than its float file in onnxruntime at batch 32 on 2 threads, 0.50 × its speed: "
              "4 ms, fp32 2 ms"),
    ],
)  # fmt: skip
def test_a_file_that_lost_speed_is_called_slower(own: float, told: str) -> None:
    timed = [Latency(median, median, batch=32, threads=2) for median in (own, 2.0)]
    assert speed_beside_float("m.onnx", *timed, "onnxruntime") == told
