from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcomp.deploy import OnnxSession, float_export, to_onnx
from mcomp.deploy.pooling import equal_pools, window
from mcomp.models import build
from tests.unit.deploy.deploy_networks import quantised


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_window_averages_what_the_adaptive_pool_averages(size: int, output: int) -> None:
    found = window(size, output)
    row = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    if found is None:
        assert output > 2 or size < output
        return
    expected = F.adaptive_avg_pool1d(row, output)
    torch.testing.assert_close(F.avg_pool1d(row, *found), expected)


def test_two_outputs_have_a_window_at_every_size() -> None:
    assert [window(size, 2) for size in (2, 3, 7)] == [(1, 1), (2, 1), (4, 3)]
    assert window(8, 3) is None


def test_only_pools_that_the_exporter_refuses_are_replaced() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d((7, 7)), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1))
    assert [*equal_pools(model, (torch.randn(2, 3, 28, 7),))] == ["1"]


@pytest.mark.parametrize("bits", ["float", "int8"])
def test_a_network_with_an_odd_pool_goes_by_the_quick_route(
    bits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_export, "_by_dynamo", None)
    size = 28
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = build({"name": "lenet", "width": 0.5}, in_shape=(3, size, size))
    if bits == "int8":
        head = nn.Sequential(nn.Conv2d(3, 8, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(32, 10))
        model, x = quantised(head), x[:, :, :8, :8]
    to_onnx(model, (x[:2],), tmp_path / "net.onnx", "float" if bits == "float" else "onnxruntime")
    with torch.no_grad():
        torch.testing.assert_close(OnnxSession(tmp_path / "net.onnx").predict(x), model(x), rtol=1e-4, atol=1e-5)
