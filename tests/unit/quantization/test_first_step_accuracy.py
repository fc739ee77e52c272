"""A float network that is quantised at eight bits, and not trained, goes on knowing what it knew."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import mcomp

ON_THE_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data() -> Any:
    """Two cluttered digits per image: 2400 test images, so that half a point is twelve of them."""
    return mcomp.data.load(name="two_digits")


@pytest.fixture(scope="module")
def trained(data: Any) -> tuple[nn.Module, float]:
    """A narrow NIN and its top-1 in percent."""
    model = mcomp.models.build("nin", num_classes=data.num_classes, width=0.25, in_shape=data.in_shape)
    done = mcomp.stages.train(model, data, epochs=3, **ON_THE_CPU)
    return done.model, float(done.metrics["top1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "iao"},
        {"scheme": "lsq"},
        {"scheme": "dorefa", "variant": "int_exact", "first_layer_float": False},
        {"scheme": "ristretto"},
    ],
    ids=lambda options: options["scheme"],
)
def test_eight_bits_without_training_keep_top_1_within_half_a_point(
    trained: tuple[nn.Module, float], data: Any, options: dict[str, Any]
) -> None:
    model, top1 = trained
    assert top1 > 60, "a network that knows nothing has nothing to lose"
    done = mcomp.stages.quantize(model, data, epochs=0, w_bits=8, a_bits=8, **options, **ON_THE_CPU)
    assert abs(float(done.metrics["top1"]) - top1) <= 0.5
