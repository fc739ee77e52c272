"""The HTML page of a run and the drawings on it."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.engine.summary import scales_differ
from mcomp.engine.units import latency_text
from mcomp.report.before_after import changes
from mcomp.report.histograms import histogram_rows, histogram_svg
from mcomp.report.page import report_page


def stage(name: str, uses: str = "", source: str | None = None, **metrics: Any) -> dict[str, Any]:
    return {
        "id": name, "uses": uses or name, "from": source, "status": "run", "key": None, "artifact": "a" * 64,
        "seconds": 1.0, "metrics": metrics, "files": {}, "gates": [], "notes": [],
    }  # fmt: skip


STAGE = stage("slim", "sparse_train", top1=90.0)
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


FLAGSHIP = [
    stage("train", params=1000, macs=5000, bytes=4000, top1=90.0, latency_ms=2.0, latency_backend="torch"),
    stage(
        "slim",
        "sparse_train",
        "train",
        params=1000,
        macs=5000,
        bytes=4000,
        top1=96.0,
        latency_ms=2.1,
        latency_backend="torch",
    ),
    stage(
        "prune", source="slim", params=400, macs=2000, bytes=1600, top1=10.0, latency_ms=1.0, latency_backend="torch"
    ),
    stage(
        "tune",
        "finetune",
        "prune",
        params=400,
        macs=2000,
        bytes=1600,
        top1=95.5,
        latency_ms=1.0,
        latency_backend="torch",
    ),
    stage(
        "ship",
        "onnx_int8",
        "tune",
        params=400,
        macs=2000,
        bytes=500,
        top1=95.0,
        latency_ms=0.2,
        latency_backend="onnxruntime",
    ),
]


class Elements(HTMLParser):
    """The elements of a page, and those that were never closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def result_of(stages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": "net", "run": "r", "status": "ok", "seconds": 2.0, "sweep": {}, "stages": stages, **more}


def test_the_network_is_compared_with_what_it_was_before_anything_was_taken_from_it() -> None:
    found = {change.what: change for change in changes(FLAGSHIP, {})}
    assert found["parameters"].verdict == "2.5 × smaller"
    assert found["parameters"].share == 0.4
    assert (found["bytes on disk"].verdict, found["bytes on disk"].good) == ("8 × smaller", True)
    assert found["top-1 accuracy"].before == "96.00 %, slim"  # not of the stage that trained less
    assert (found["top-1 accuracy"].verdict, found["top-1 accuracy"].good) == ("-1.00 points", False)


def test_latencies_of_two_runtimes_are_shown_and_not_compared() -> None:
    *_, shipped = changes(FLAGSHIP, {})
    assert (shipped.verdict, shipped.share, shipped.good) == ("runtimes differ", None, None)
    *_, torch_only = changes(FLAGSHIP[:-1], {})
    assert (torch_only.verdict, torch_only.good) == ("2.1 × faster", True)


def test_figures_of_different_runtimes_are_named_as_no_one_scale() -> None:
    told = scales_differ(result_of(FLAGSHIP))
    assert "latencies are of different runtimes" in told
    assert "torch in" in told
    assert "onnxruntime in ship" in told
    assert "no one scale" in report_page(result_of(FLAGSHIP), {})
    assert scales_differ(result_of(FLAGSHIP[:-1])) == ""


def test_bytes_of_deployed_files_say_so_and_several_formats_are_no_one_size() -> None:
    shipped = stage("ship", "export", "train", bytes=500, bytes_of="2 formats")
    way = [stage("train", bytes=1000), shipped]
    found = {change.what: change for change in changes(way, {})}["bytes on disk"]
    assert found.after == "500 B (2 formats), ship"
    assert (found.verdict, found.share) == ("several formats", None)
    assert "bytes are of the saved model" in scales_differ(result_of(way))


def test_the_time_of_an_engine_goes_before_that_of_the_file_it_was_built_of() -> None:
    figures = {"latency_ms": 3.0, "latency_backend": "onnxruntime", "engine_latency_ms": 0.125}
    assert latency_text(figures) == "0.125 ms (tensorrt), 3 ms (onnxruntime)"


def test_a_run_that_begins_with_a_cut_knows_the_size_before_it_and_no_accuracy() -> None:
    way = [stage("cut", "prune", params=400, top1=10.0), stage("tune", "finetune", "cut", params=400, top1=95.0)]
    found = {change.what: change for change in changes(way, {"cut": {"params_before": 1000}})}
    assert found["parameters"].before == "1 k, before cut"
    assert found["top-1 accuracy"].before == found["top-1 accuracy"].verdict == ""


@pytest.mark.parametrize("worthless", ["nan", float("nan"), float("inf"), True, None])
def test_a_figure_that_is_no_number_is_left_out(worthless: Any) -> None:
    found = changes([stage("train", params=10, top1=worthless, macs=worthless)], {})
    assert [change.what for change in found] == ["parameters"]
    assert "<table" in report_page(result_of([stage("train", macs=worthless, bytes=worthless)]), {})


def test_every_branch_has_cards_of_its_own() -> None:
    tails = [*FLAGSHIP, stage("other", "quantize", "tune", params=400, bytes=700)]
    page = report_page(result_of(tails), {})
    assert page.count('<div class="cards">') == 2
    assert page.index("<h3>ship</h3>") < page.index("<h3>other</h3>")


def test_the_page_has_a_row_per_stage_a_bar_per_layer_and_is_well_formed() -> None:
    stages = copy.deepcopy(FLAGSHIP)
    stages[2]["notes"] = ["left whole: `head`: is an output of the network"]
    stages[3]["gates"] = [
        {
            "metric": "top1",
            "rule": "max_drop",
            "limit": 1.0,
            "value": 0.5,
            "passed": True,
            "vs": "slim",
            "unit": "points",
        }
    ]
    layers = [{"layer": "stem", "before": 64, "after": 24}, {"layer": "head", "before": 10, "after": 10}]
    history = [epoch(1, [1, 3]), epoch(2, [3, 1])]
    page = report_page(result_of(stages), {"prune": {"layers": layers}, "slim": {"history": history}})
    elements = Elements(page)
    assert elements.open == []
    assert page.count('<th scope="row">') == len(stages) + len(layers)
    assert 'style="width:37.50%"' in page
    assert "24 of 64" in page
    assert "10, whole" in page
    assert "left whole: <code>head</code>: is an output" in page
    assert "top1 max_drop vs slim: 0.5 points (limit 1)" in page
    assert "prefers-color-scheme: dark" in page


MARKUP = "</style><script>alert(1)</script><img src=x onerror=\"alert('`1`')\">"


def test_no_text_of_a_recipe_a_network_or_a_plug_in_becomes_markup() -> None:
    bad = {
        **stage(MARKUP, "sparse_train", params=1, top1=MARKUP, latency_ms=1.0, latency_backend=MARKUP),
        "notes": [MARKUP],
        "files": {MARKUP: MARKUP},
        "gates": [
            {
                "metric": MARKUP,
                "rule": MARKUP,
                "limit": 1,
                "value": MARKUP,
                "passed": False,
                "vs": MARKUP,
                "unit": MARKUP,
            }
        ],
        "outcome": MARKUP,
    }
    other = {**stage("b" + MARKUP, "prune", MARKUP, params=1, top1=1.0)}
    rows = [{"layer": MARKUP, "before": 2, "after": 1}, {"layer": MARKUP, "before": MARKUP, "after": MARKUP}]
    history = [{**epoch(1, [1, 2]), "epoch": MARKUP, "gamma_small": MARKUP}]
    details = {MARKUP: {"layers": rows, "history": history, "params_before": MARKUP}, "b" + MARKUP: {"layers": rows}}
    errors = [{"code": MARKUP, "message": MARKUP, "hint": MARKUP}]
    result = result_of([bad, other], name=MARKUP, run=MARKUP, status=MARKUP, sweep={MARKUP: MARKUP}, errors=errors)
    elements = Elements(report_page(result, details))
    assert elements.open == []
    assert {tag for tag, _ in elements.seen}.isdisjoint({"script", "img", "link", "iframe", "object"})
    assert not [name for _, attributes in elements.seen for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in elements.seen].count("style") == 1


def test_a_run_that_failed_shows_what_it_did_and_why_it_ended() -> None:
    waiting = {**stage("tune", "finetune"), "status": "skipped", "outcome": "not run", "artifact": None}
    broken = {**stage("prune", source="train"), "status": "failed", "artifact": None}
    errors = [{"code": "MC411", "message": "the network has no channel", "hint": "use `ignore`"}]
    page = report_page(result_of([FLAGSHIP[0], broken, waiting], status="failed", errors=errors), {})
    assert Elements(page).open == []
    assert '<span class="badge bad">failed</span>' in page
    assert "MC411: the network has no channel" in page
    assert "not run" in page


@pytest.mark.parametrize(
    "layers", [None, "many", [], [3], [{"layer": "a"}], [{"before": -1, "after": 2}], [{"sparsity": 150}]]
)
def test_a_table_of_layers_that_a_plug_in_made_its_own_way_is_not_drawn(layers: Any) -> None:
    assert 'class="bars"' not in report_page(RESULT, {"slim": {"layers": layers}})


def test_zeros_of_each_layer_are_drawn() -> None:
    page = report_page(RESULT, {"slim": {"layers": [{"layer": "fc", "sparsity": 50.0}]}})
    assert 'style="width:50.00%"' in page
    assert "50.0 %" in page


def test_a_page_says_what_before_means_where_something_is_compared() -> None:
    compared = [stage("train", params=1000), stage("prune", params=400)]
    assert "Before is the network as the last stage left it that took nothing away" in report_page(
        result_of(compared), {}
    )
    assert "Before is" not in report_page(result_of([stage("train", params=1000)]), {})
