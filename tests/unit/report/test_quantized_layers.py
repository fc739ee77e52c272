"""The drawings of quantised layers: well formed, on their sheet, of what was measured and of nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.report.page import report_page
from mcomp.report.quantized_layers import grid_svg, quantized_layers_html
from tests.unit.report.test_page import RESULT

shares = st.lists(st.floats(0, 100), min_size=1, max_size=64)


def histogram(before: list[float], low: float = -1.0, high: float = 3.0, **more: Any) -> dict[str, Any]:
    return {"low": low, "high": high, "before": before, "after": before[::-1], "levels": [], "unit": "value", **more}


def details(**more: Any) -> dict[str, Any]:
    row = {
        "name": "a<b", "kind": "weight", "layers": ["conv"], "scheme": "lsq", "bits": 3, "clipped": 1.25, "used": 87.5,
        "sqnr_db": 17.5, "histogram": histogram([10.0, 90.0], levels=[-1.0, 0.0, 1.0]),
    }  # fmt: skip
    outputs = [{"name": "conv", "sqnr_db": 30.0}, {"name": "head", "sqnr_db": None}]
    return {"layer_report": {"tensors": [row], "outputs": outputs, "sqnr_db": 12.0, "samples": 128}, **more}


@given(shares, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(-2, 2), max_size=33))
def test_a_drawing_stays_on_its_sheet_with_a_line_per_level(
    before: list[float], low: float, width: float, places: list[float]
) -> None:
    levels = [low + place * width for place in places]
    drawn = grid_svg(histogram(before, low, low + width, levels=levels), "a <b>")
    if not low < low + width:
        assert not drawn
        return
    svg = ET.fromstring(drawn)
    sheet = float(svg.attrib["width"]), float(svg.attrib["height"])
    assert len([line for line in svg.iter("line") if line.attrib.get("class") == "level"]) == sum(
        low <= level <= low + width for level in levels
    )
    paths = [part.attrib["d"] for part in svg.iter("path")]
    assert len(paths) == 2
    for path in paths:
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path)]
        assert all(0 <= x <= sheet[0] for x in numbers[::2])
        assert all(0 <= y <= sheet[1] for y in numbers[1::2])


def test_longer_bars_are_closer_to_float_and_no_noise_is_a_full_one() -> None:
    html = quantized_layers_html("q", details())
    assert re.findall(r'style="width:([\d.]+)%"', html) == ["50.0", "100.0"]
    assert "128 training images" in html
    assert "a&lt;b" in html
    assert "weight, lsq, 3 bits · 17.5 dB · 1.25 % clipped · 88 % of the levels in use" in html


def test_the_layer_that_costs_most_alone_comes_first() -> None:
    rows = [
        {"name": name, "w_bits": 2, "a_bits": 32, "sqnr_db": 9.0, "top1": 90.0 - drop, "drop": drop}
        for name, drop in (("good", 0.5), ("bad", 20.0), ("middling", 3.0))
    ]
    alone = {"layers": rows, "float_top1": 90.0, "quantized_top1": 60.0, "sqnr_db": 4.0}
    html = quantized_layers_html("q", details(sensitivity=alone))
    assert re.findall(r'<th scope="row">(\w+)</th><td>2</td><td>float</td>', html) == ["bad", "middling", "good"]
    assert "90.00 % in float, 60.00 % with all" in html


@pytest.mark.parametrize("without", [{}, {"layer_report": None}, {"layer_report": {"tensors": [], "outputs": None}}])
def test_details_without_a_report_draw_nothing(without: Any) -> None:
    assert quantized_layers_html("q", without) == ""


def test_only_so_many_tensors_are_drawn_and_the_page_says_so() -> None:
    many = details()
    many["layer_report"]["tensors"] *= 200
    html = quantized_layers_html("q", many)
    assert html.count("<svg") == 80
    assert html.count("<details>") == 200
    assert "the first 80 of 200 tensors are drawn" in html


def test_the_section_stands_on_the_page_and_the_page_loads_nothing() -> None:
    page = report_page(RESULT, {"slim": details()})
    assert "noise of quantisation" in page
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(name for name, _ in attrs if name in ("src", "href") or name.startswith("on"))
            if tag == "script":
                found.append(tag)

    Links().feed(page)
    assert not found
