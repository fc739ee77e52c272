from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import Diagnostic
from mcomp.recipe.diagnostics import render
from tests.unit.recipe.samples import FLAGSHIP, fault, faults, stages


def test_several_faults_are_counted_at_the_end() -> None:
    text = (
        FLAGSHIP.replace("regular: 8", "regular: 0")
        .replace("epochs: 4}", "epochs: -1}")
        .replace("vars: {ratio", "vars: {x: 1, ratio")
    )
    found = faults(text)
    assert len(found) == 3
    assert render(found).endswith("\n3 errors; nothing was run")


def test_warnings_alone_do_not_say_that_nothing_was_run() -> None:
    assert render([Diagnostic("MC108", "m", severity="warning")]) == "warning[MC108]: m\n1 warning"


def test_nothing_to_say_is_nothing() -> None:
    assert render([]) == ""


def test_control_characters_of_the_recipe_never_reach_the_terminal() -> None:
    text = stages('"pr\\e[31mune\\u202e"', "train # \u202e evil")
    shown = render(faults(text, name="a\x1b]0;x\x07.yaml"))
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "\\x1b[31m" in shown


def test_the_caret_stands_under_the_fault_behind_wide_characters() -> None:
    shown = render([fault(stages("train: {epochs: 1, 日本: 2}"))]).split("\n")
    assert shown[3].index("日本") + 0 == shown[4].index("^")
    assert shown[4].count("^") == 4


def test_a_line_of_a_megabyte_is_cut_around_the_fault() -> None:
    shown = render([fault(stages(f"train: {{epochs: 1, {' ' * 100_000}epohs: 2, lr: {'1' * 1}}}{' ' * 5000}"))])
    lines = shown.split("\n")
    assert max(map(len, lines)) < 250
    start = lines[4].index("^")
    assert lines[3][start : start + 5] == "epohs"


@given(st.text(max_size=30), st.integers(1, 40), st.integers(1, 60))
def test_rendering_never_fails(line: str, column: int, length: int) -> None:
    shown = render([Diagnostic("MC103", line, "f", 3, column, length, label=line, hint=line, source_line=line)])
    assert all(char.isprintable() or char == "\n" for char in shown)
