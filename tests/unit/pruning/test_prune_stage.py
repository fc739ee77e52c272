"""The `prune` stage as an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mcomp.models import nin_gc
from mcomp.stages import Surroundings, get
from mcomp.stages.base import StageContext
from tests.unit.pruning.pruning_nets import images, seeded

Prune = get("prune")


def test_it_prunes_without_data_and_reports_figures_and_a_table(tmp_path: Path) -> None:
    ctx = StageContext(seeded(nin_gc(width=0.25)), (images(16),), None, tmp_path)
    result = Prune().run(ctx, Prune.Options(ratio=0.4, regular=8))
    assert set(result.metrics) == {"params", "macs", "channels_kept", "max_error"}
    assert 40 < result.metrics["channels_kept"] < 80  # type: ignore[operator]
    assert result.details["layers"][-1] == {"layer": "features.10.conv", "before": 10, "after": 10}
    assert all(row["after"] % 8 == 0 for row in result.details["layers"][:-1])
    assert result.notes == ["left whole: `features.10.conv`: is an output of the network"]


@pytest.mark.parametrize(
    "options", [{"ratio": 0.0}, {"ratio": 1.0}, {"ratio": -1.0}, {"ratio": float("nan")}, {"regular": 0}]
)
def test_values_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Prune.Options(**options)


@pytest.mark.parametrize(
    ("regular", "after", "warnings"), [(8, "trt_int8", 1), (32, "trt_int8", 0), (8, "finetune", 0)]
)
def test_widths_that_int8_kernels_would_pad_are_warned_of(regular: int, after: str, warnings: int) -> None:
    found = Prune.check(Prune.Options(ratio=0.5, regular=regular), Surroundings(after=(after,)))
    assert [finding.severity for finding in found] == ["warning"] * warnings
    assert all("regular: 16" in finding.hint for finding in found)
