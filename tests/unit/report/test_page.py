"""The HTML page of a run and the drawings on it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.report.histograms import histogram_rows, histogram_svg
from mcomp.report.page import report_page

STAGE: dict[str, Any] = {
    "id": "slim",
    "uses": "sparse_train",
    "status": "run",
    "seconds": 1.0,
    "metrics": {"top1": 90.0},
    "files": {},
    "gates": [],
    "notes": [],
}
RESULT: dict[str, Any] = {"name": "a & <b>", "run": "r", "status": "ok", "seconds": 2.0, "sweep": {}, "stages": [STAGE]}


def epoch(number: int, counts: list[int], upper: float = 1.0, quantity: str = "gamma") -> dict[str, Any]:
    spread = {"upper": upper, "counts": counts}
    return {"epoch": number, "loss": 0.1, f"{quantity}_histogram": spread, f"{quantity}_small": 12.5}


spreads = st.builds(
    epoch,
    st.integers(1, 99),
    st.lists(st.integers(0, 500), min_size=1, max_size=32),
    st.floats(1e-3, 1e3),
    st.just("norm"),
)


@given(st.lists(spreads, min_size=1, max_size=60))
def test_a_drawing_is_well_formed_has_a_row_per_epoch_and_stays_on_its_sheet(history: list[dict[str, Any]]) -> None:
    svg = ET.fromstring(histogram_svg(history, "norms"))
    paths = [part.attrib["d"] for part in svg.iter("path")]
    assert len(paths) == min(len(history), 24)
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for path in paths:
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path)]
        assert all(0 <= x <= width for x in numbers[::2])
        assert all(0 <= y <= height for y in numbers[1::2])


@pytest.mark.parametrize("epochs", [1, 2, 23, 24, 25, 300])
def test_the_first_and_the_last_epoch_are_always_drawn(epochs: int) -> None:
    _, rows = histogram_rows([epoch(number, [1, 2]) for number in range(1, epochs + 1)])
    numbers = [row["epoch"] for row in rows]
    assert (numbers[0], numbers[-1]) == (1, epochs)
    assert numbers == sorted(set(numbers))


def test_the_page_draws_each_sparse_training_and_loads_nothing() -> None:
    page = report_page(RESULT, {"slim": {"history": [epoch(1, [1, 3]), epoch(2, [3, 1])]}})
    assert page.count("<svg") == 1
    assert "slim: |γ| per epoch" in page
    assert "epoch 2: 12.5 % below 0.01" in page
    assert "a &amp; &lt;b&gt;" in page
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"slim": {"history": [{"epoch": 1, "loss": 0.1}]}},
        {"slim": {"history": "nothing"}},
        {"slim": {"history": [{"gamma_histogram": {"upper": "nan", "counts": [1]}}]}},
        {"slim": {"history": [{"gamma_histogram": {"upper": 1.0, "counts": []}}]}},
    ],
)
def test_a_stage_without_histograms_has_no_drawing(details: dict[str, Any]) -> None:
    assert "<svg" not in report_page(RESULT, details)
