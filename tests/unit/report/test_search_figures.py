"""The figures of a search: what they show is what the trials say."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.report.page import report_page
from mcomp.report.scatter import HEIGHT, WIDTH, Axis
from mcomp.report.search_figures import front_of, search_figures

UNITS = {"billions": 1e9, "millions": 1e6, "thousands": 1e3}


def trial(number: int, level: str, top1: float | None, **costs: float) -> dict[str, Any]:
    return {"number": number, "level": level, "top1": top1, "costs": costs}


def search(trials: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    close = [row for row in trials if row["level"] == "full" and row["top1"] is not None]
    best = max(close, key=lambda row: row["top1"])["number"] if close else None
    return {"objectives": ["top1"], "budgets": {}, "trials": trials, "front": [best], "best": best, **more}


TRIALS = [
    trial(0, "proxy", 50.0, macs=2_000_000.0, avg_bit_weights=4.0),
    trial(0, "full", 61.25, macs=2_000_000.0, avg_bit_weights=4.0),
    trial(1, "proxy", 40.5, macs=1_500_000.0, avg_bit_weights=4.0),
    trial(2, "proxy", None, macs=1_700_000.0, avg_bit_weights=4.0),
    trial(3, "proxy", 70.0, macs=1_250_000.0, avg_bit_weights=4.0),
    trial(3, "full", 72.5, macs=1_250_000.0, avg_bit_weights=4.0),
    trial(4, "full", 66.0, macs=1_100_000.0, avg_bit_weights=4.0),
]
HELD = search(
    TRIALS,
    budgets={"macs": 2_100_000.0, "avg_bit_weights": 4.0},
    layers=[{"layer": "a<b>", "w_bits": 5, "keep": 0.5}, {"layer": "c", "w_bits": 8}, {"layer": "d", "keep": 1.0}],
    widths={"a<b>": 12},
)


def section(held: Any) -> ET.Element:
    """The section as XML, which HTML of ours is."""
    return ET.fromstring(search_figures("find", {"search": held}))


def drawing(held: Any, words: str) -> ET.Element:
    return next(svg for svg in section(held).iter("svg") if words in (svg.findtext("title") or ""))


def dots(svg: ET.Element, kind: str) -> list[tuple[float, float, str]]:
    """Where the circles of a group are, and what they say."""
    found = [group for group in svg.iter("g") if group.get("class") == kind]
    return [
        (float(one.attrib["cx"]), float(one.attrib["cy"]), one.findtext("title") or "")
        for group in found
        for one in group.iter("circle")
    ]


def read_off(svg: ET.Element, way: str, pixel: float) -> float:
    """The value at a pixel, by the outermost two ticks of an axis: as a reader would."""
    place = "x" if way == "x" else "y"
    ticks = [(float(t.attrib[place]), float(t.text or "")) for t in svg.iter("text") if t.get("class") == way]
    shift = 0.0 if way == "x" else 4.0  # a text's base line stands that far below its tick
    (low, first), (high, last) = ticks[0], ticks[-1]
    title = " ".join(t.text or "" for t in svg.iter("text"))
    unit = next((size for name, size in UNITS.items() if way == "x" and f", {name}" in title), 1.0)
    return (first + (pixel + shift - low) / (high - low) * (last - first)) * unit


def test_every_dot_stands_where_its_trial_says_and_says_it() -> None:
    course = drawing(HELD, "so far")
    for kind, level in (("cheap", "proxy"), ("close", "full")):
        wanted = [(row["number"], row["top1"]) for row in TRIALS if row["level"] == level and row["top1"] is not None]
        found = dots(course, kind)
        assert len(found) == len(wanted)
        for (number, top1), (x, y, said) in zip(wanted, found, strict=True):
            assert read_off(course, "x", x) == pytest.approx(number, abs=0.02)
            assert read_off(course, "y", y) == pytest.approx(top1, abs=0.05)
            assert said == f"candidate {number}, {'close' if level == 'full' else 'cheap'} look: {top1:.2f} %"


def test_accuracy_is_drawn_against_each_cost_that_differs() -> None:
    assert [svg.findtext("title") for svg in section(HELD).iter("svg")] == [
        "find: best held-out top-1 so far",
        "find: top-1 against MACs",
    ]
    against = drawing(HELD, "MACs")
    wanted = [(row["costs"]["macs"], row["top1"]) for row in TRIALS if row["level"] == "full"]
    for (cost, top1), (x, y, said) in zip(wanted, dots(against, "close"), strict=True):
        assert read_off(against, "x", x) == pytest.approx(cost, rel=1e-3)
        assert read_off(against, "y", y) == pytest.approx(top1, abs=0.05)
        assert f"{top1:.2f} %, MACs {cost:.0f}" in said
    limit = next(path for path in against.iter("path") if path.get("class") == "limit")
    assert read_off(against, "x", float(limit.attrib["d"][1:].split()[0])) == pytest.approx(2_100_000, rel=1e-3)
    assert any(text.text == "budget 2100000" for text in against.iter("text"))


def test_the_front_is_drawn_as_steps_from_the_cheapest() -> None:
    against = drawing(HELD, "MACs")
    way = next(path.attrib["d"] for path in against.iter("path") if path.get("class") == "steps")
    x, y, right, up = map(float, re.findall(r"[\d.]+", way))
    assert [read_off(against, "x", each) for each in (x, right)] == pytest.approx([1_100_000, 1_250_000], rel=1e-3)
    assert [read_off(against, "y", each) for each in (y, up)] == pytest.approx([66.0, 72.5], abs=0.05)


def test_an_objective_is_drawn_though_all_have_the_same() -> None:
    titles = [svg.findtext("title") for svg in section({**HELD, "objectives": ["top1", "avg_bit_weights"]}).iter("svg")]
    assert "find: top-1 against mean bits of weights" in titles


@pytest.mark.parametrize(("words", "where"), [("so far", (3, 72.5)), ("MACs", (1_250_000, 72.5))])
def test_the_choice_is_marked_and_named(words: str, where: tuple[float, float]) -> None:
    svg = drawing(HELD, words)
    ((x, y, said),) = dots(svg, "chosen")
    assert read_off(svg, "x", x) == pytest.approx(where[0], rel=0.01)
    assert read_off(svg, "y", y) == pytest.approx(where[1], abs=0.05)
    assert said.startswith("candidate 3, close look: 72.50 %")
    assert "candidate 3: 72.50 %" in [text.text for text in svg.iter("text")]


def test_the_line_is_the_best_close_look_so_far() -> None:
    course = drawing(HELD, "so far")
    way = next(path.attrib["d"] for path in course.iter("path") if path.get("class") == "steps")
    start, *corners = re.findall(r"[\d.]+", way)
    heights = [float(corners[0]), *map(float, corners[2::2])]
    assert [read_off(course, "y", y) for y in heights] == pytest.approx([61.25, 72.5, 72.5], abs=0.05)
    assert [read_off(course, "x", float(x)) for x in (start, *corners[1::2])] == pytest.approx([0, 3, 4], abs=0.02)


def test_a_candidate_that_could_not_be_made_is_counted_and_not_drawn() -> None:
    text = search_figures("find", {"search": HELD})
    assert "5 candidates, 3 looked at closely, 1 could not be made and are not drawn" in text
    assert "candidate 2," not in text


def test_the_choice_by_layer_is_a_table_of_its_figures() -> None:
    rows = [["".join(cell.itertext()) for cell in row] for row in section(HELD).iter("tr")]
    assert rows == [
        ["layer", "weight bits", "share that stays", "channels"],
        ["a<b>", "5", "50.0 %", "12"],
        ["c", "8", "–", "–"],
        ["d", "–", "100.0 %", "all"],
    ]


@pytest.mark.parametrize(
    "details",
    [{}, {"search": None}, {"search": {}}, {"search": search([])}, {"search": search([trial(0, "full", None)])}],
)
def test_a_stage_that_searched_nothing_has_no_section(details: dict[str, Any]) -> None:
    assert search_figures("find", details) == ""


accuracies = st.one_of(st.none(), st.floats(0, 100))
rows = st.builds(
    lambda level, top1, macs, bits: (level, top1, macs, bits),
    st.sampled_from(["proxy", "full"]),
    accuracies,
    st.floats(1e3, 1e12),
    st.floats(1, 32),
)


@settings(max_examples=40)
@given(st.lists(rows, min_size=1, max_size=40), st.floats(0.5, 40))
def test_all_that_is_drawn_is_well_formed_and_stays_in_its_frame(
    found: list[tuple[str, float | None, float, float]], bits: float
) -> None:
    trials = [trial(n, level, top1, macs=macs, avg_bit_fm=own) for n, (level, top1, macs, own) in enumerate(found)]
    held = search([*trials, trial(len(trials), "full", 50.0, macs=1e6, avg_bit_fm=4.0)], budgets={"avg_bit_fm": bits})
    for svg in section(held).iter("svg"):
        assert svg.findtext("title")
        assert svg.findtext("desc")
        right, left, bottom = _frame(svg)
        for circle in svg.iter("circle"):
            assert left <= float(circle.attrib["cx"]) <= right
            assert 0 <= float(circle.attrib["cy"]) <= bottom
        for text in svg.iter("text"):
            assert 0 <= float(text.attrib["x"]) <= WIDTH
            assert 0 <= float(text.attrib["y"]) <= HEIGHT


def _frame(svg: ET.Element) -> tuple[float, float, float]:
    """Right, left and bottom, as the two axes have them."""
    flat, upright = list(svg.iter("line"))[-2:]
    return float(flat.attrib["x2"]), float(upright.attrib["x1"]), float(flat.attrib["y1"])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_a_front_is_what_nothing_else_beats(points: list[tuple[float, float]]) -> None:
    beaten = {one for one in points for other in points if other != one and other[0] <= one[0] and other[1] >= one[1]}
    assert front_of(points) == sorted(set(points) - beaten)


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_evenly_spaced_round_values_that_can_be_told_apart(low: float, span: float) -> None:
    axis = Axis.over([low, low + span], 0.0, 100.0, "x")
    if axis.high - axis.low < 1e-6 * max(abs(axis.low), abs(axis.high)):
        return
    values, texts = zip(*axis.ticks(), strict=True)
    assert 3 <= len(values) <= 10
    assert len(set(texts)) == len(texts)
    assert all(axis.low <= value <= axis.high for value in values)


def test_the_page_of_a_run_has_the_figures_and_loads_nothing() -> None:
    stage: dict[str, Any] = {
        "id": "find", "uses": "search", "from": None, "status": "run", "key": None, "artifact": "a" * 64,
        "seconds": 1.0, "metrics": {}, "files": {}, "gates": [], "notes": [],
    }  # fmt: skip
    result = {"name": "n", "run": "r", "status": "ok", "seconds": 2.0, "sweep": {}, "stages": [stage]}
    page = report_page(result, {"find": {"search": copy.deepcopy(HELD)}})
    assert page.count("<svg") == 2
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)
