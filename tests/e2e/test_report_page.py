"""`mcomp report --html` on the flagship's run: whole, killed in the middle, and where nothing may be written."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import FlagshipRun, run_mcomp


@pytest.fixture
def place(flagship: FlagshipRun, tmp_path: Path) -> Path:
    shutil.copytree(flagship.store, tmp_path / ".mcomp")
    for run in (tmp_path / ".mcomp" / "runs").iterdir():  # other tests add runs to the store that all share
        if run.name != flagship.result["run"]:
            shutil.rmtree(run)
    return tmp_path


class Headings(HTMLParser):
    """The titles of a page's sections."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._in = tag == "h2"

    def handle_data(self, data: str) -> None:
        if self._in:
            self.found.append(data)
            self._in = False


def test_the_page_of_a_run_shows_all_that_it_did_and_loads_nothing(place: Path) -> None:
    done = run_mcomp("report", "nin_gc", "--html", "pages/run.html", cwd=place)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"run \S+ \(ok\) -> pages/run\.html\n", done.stdout)
    page = (place / "pages" / "run.html").read_text()
    assert Headings(page).found == [
        "Stages",
        "Gates",
        "prune: channels of each layer",
        "quantize: noise of quantisation",
        "sparse_train: |γ| per epoch",
        "Left whole, and other notes",
        "Files",
    ]
    assert page.count('class="card"') == 5
    assert all(f"<title>epoch {number}" in page for number in range(1, 6))
    assert "<code>features.10.conv</code>: is an output of the network" in page
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)


def test_a_run_that_was_killed_is_shown_as_far_as_it_got(place: Path) -> None:
    (folder,) = (place / ".mcomp" / "runs").iterdir()
    (folder / "result.json").unlink()
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    within = [index for index, line in enumerate(lines) if '"event": "epoch"' in line and '"sparse_train"' in line][2]
    (folder / "events.jsonl").write_text("".join(lines[: within + 1]) + '{"event": "ep')
    table = run_mcomp("report", cwd=place)
    assert table.returncode == 0, table.stderr
    assert re.search(r"sparse_train .* unfinished", table.stdout)
    assert "not finished; this is what it had done" in table.stderr
    done = run_mcomp("report", folder.name, "--html", "run.html", cwd=place)
    assert done.returncode == 0, done.stderr
    page = (place / "run.html").read_text()
    assert Headings(page).found == ["Stages", "sparse_train: |γ| per epoch"]
    assert page.count("<path") == 3
    assert '<span class="badge warn">unfinished</span>' in page


def test_a_page_that_cannot_be_written_is_a_usage_error(place: Path) -> None:
    (place / "taken").mkdir()
    done = run_mcomp("report", "--html", "taken", cwd=place)
    assert done.returncode == 2
    assert "error[MC216]: `taken` cannot be written" in done.stderr
    assert list((place / "taken").iterdir()) == []


def test_with_json_the_page_is_written_too_and_standard_output_holds_the_object_alone(place: Path) -> None:
    done = run_mcomp("report", "--json", "--html", "run.html", cwd=place)
    assert done.stdout.startswith("{")
    assert done.stdout.endswith("}\n")
    assert (place / "run.html").exists()
