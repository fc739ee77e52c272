"""The heat map of what each layer alone costs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.report.page import report_page
from mcomp.report.sensitivity_heat import sensitivity_heat, shade
from mcomp.search.sensitivity_map import LayerLoss, SensitivityMap

ROWS = (
    LayerLoss("w_bits", "stem", 8, 0.0011, 0.0),
    LayerLoss("w_bits", "stem", 2, 2.345, 41.5),
    LayerLoss("w_bits", "a & <b>", 8, -0.002, -0.25),
    LayerLoss("w_bits", "a & <b>", 2, 0.123, 3.5),
    LayerLoss("keep", "stem", 0.5, 0.45, 7.0),
)
MAP = SensitivityMap(0.25, 91.5, ROWS, images=512)


def tables(html: str) -> list[ET.Element]:
    return list(ET.fromstring(html).iter("table"))


def drawn(found: SensitivityMap) -> str:
    return sensitivity_heat("look", {"sensitivity_map": found.as_dict()})


def ink(cell: ET.Element) -> int:
    (percent,) = re.findall(r"(\d+)%", cell.get("style", "")) or ["0"]
    return int(percent)


losses = st.builds(
    LayerLoss,
    st.sampled_from(["w_bits", "a_bits", "keep"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
    st.sampled_from([0.25, 0.5, 2, 4, 8]),
    st.floats(-1, 20),
    st.floats(-100, 100),
)


@given(st.lists(losses, min_size=1, max_size=20, unique_by=lambda row: row.cell))
def test_every_number_stands_in_a_cell_of_its_own_whatever_layers_are_called(rows: list[LayerLoss]) -> None:
    _, *blocks = tables(drawn(SensitivityMap(1.0, 50.0, tuple(rows))))
    cells = [cell.text.strip() for block in blocks for cell in block.iter("td") if cell.text and cell.text != "–"]
    assert sorted(cells) == sorted(f"{row.loss_rise:+.3f}" for row in rows)


def test_a_block_has_a_row_per_layer_and_a_column_per_value() -> None:
    _, weights, keep = tables(drawn(MAP))
    assert [head.text for head in weights.iter("th")] == ["layer", "8", "2", "stem", "a & <b>"]
    assert [head.text for head in keep.iter("th")] == ["layer", "50 %", "stem"]
    assert [head.get("scope") for head in keep.iter("th")] == ["col", "col", "row"]


def test_a_cell_says_in_words_where_it_stands_and_what_it_holds() -> None:
    titles = [cell.get("title") for table in tables(drawn(MAP))[1:] for cell in table.iter("td")]
    assert "stem, 2 bits: loss +2.35, top-1 -41.50 points" in titles
    assert "stem, 50 % of the channels: loss +0.45, top-1 -7.00 points" in titles


def test_the_more_a_layer_costs_the_more_ink_it_gets_and_none_where_nothing_is_lost() -> None:
    cells = [cell for table in tables(drawn(MAP))[1:] for cell in table.iter("td")]
    by_rise = sorted(zip((row.loss_rise for row in ROWS), map(ink, cells), strict=True))
    inks = [amount for _, amount in by_rise]
    assert inks[0] == 0
    assert inks == sorted(inks)
    assert inks[-1] == 60


def test_the_colours_of_the_legend_are_those_of_the_cells() -> None:
    for cell in tables(drawn(MAP))[0].iter("td"):
        assert cell.text is not None
        assert ink(cell) == pytest.approx(60 * shade(float(cell.text), 2.345), abs=1)


@given(st.floats(1e-9, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_ink_never_falls_as_the_rise_grows(top: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= shade(low * top, top) <= shade(high * top, top) <= 1


def test_a_tenth_of_the_largest_rise_can_be_told_from_a_hundredth() -> None:
    steps = [shade(share, 1.0) for share in (0.001, 0.01, 0.1, 1.0)]
    assert all(second - first > 0.2 for first, second in pairwise(steps))


def test_a_map_in_which_hardly_anything_rises_stays_pale() -> None:
    pale = (LayerLoss("a_bits", "stem", 8, -0.1, 0.0), LayerLoss("a_bits", "stem", 4, 2e-5, 0.0))
    inks = [ink(cell) for cell in tables(drawn(SensitivityMap(0.1, 99.0, pale)))[1].iter("td")]
    assert inks[0] == 0
    assert inks[1] < 60 / 4


@pytest.mark.parametrize(
    "held",
    [{}, {"sensitivity_map": None}, {"sensitivity_map": {"rows": [["w_bits", 3, "x"], ["gamma", "a", 1, 2, 3], 5]}}],
)
def test_details_without_a_map_draw_nothing(held: dict[str, Any]) -> None:
    assert sensitivity_heat("look", held) == ""


def test_the_page_of_a_run_shows_the_map_of_its_stage() -> None:
    stage: dict[str, Any] = {
        "id": "look", "uses": "sensitivity", "from": None, "status": "run", "key": None, "artifact": "a" * 64,
        "seconds": 1.0, "metrics": {}, "files": {}, "gates": [], "notes": [],
    }  # fmt: skip
    result: dict[str, Any] = {"name": "n", "run": "r", "status": "ok", "seconds": 2.0, "sweep": {}, "stages": [stage]}
    page = report_page(result, {"look": {"sensitivity_map": MAP.as_dict()}})
    assert "look: what each layer alone costs" in page
    assert "untouched, the loss is 0.25 and top-1 91.50 % on 512 validation images" in page
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)
