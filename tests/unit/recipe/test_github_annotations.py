from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import Diagnostic
from mcomp.recipe.diagnostics import render_github
from tests.unit.recipe.samples import FLAGSHIP, fault


def test_a_fault_is_one_workflow_command() -> None:
    found = fault(FLAGSHIP.replace("regular: 8", "regullar: 8"), name="recipes/a.yaml")
    assert render_github([found]) == (
        "::error file=recipes/a.yaml,line=10,col=32,endColumn=40,title=MC103::"
        "unknown option `regullar` for stage `prune`%0Adid you mean `regular`?%0A`mcomp stages prune` lists its options"
    )


def test_signs_that_end_a_property_or_a_command_are_escaped() -> None:
    one = Diagnostic("MC101", "50 % of a:b,c", "C:\\a,b%.yaml", 1, 2, hint="x\r\ny", severity="warning")
    assert render_github([one]) == (
        "::warning file=C%3A\\a%2Cb%25.yaml,line=1,col=2,endColumn=3,title=MC101::50 %25 of a:b,c%0Ax\\r\\ny"
    )


def test_what_is_in_no_file_says_where_it_is_in_its_text() -> None:
    assert render_github([Diagnostic("MC101", "no file", "gone.yaml")]) == "::error file=gone.yaml,title=MC101::no file"
    assert render_github([Diagnostic("MC101", "no file")]) == "::error title=MC101::no file"
    found = fault(FLAGSHIP, "data.batchsize=3")
    assert render_github([found]).startswith("::error title=MC103::--set #1:1:6: unknown option `batchsize`")


def test_nothing_to_say_is_nothing() -> None:
    assert render_github([]) == ""


def _unescaped(text: str) -> str:
    return text.replace("%2C", ",").replace("%3A", ":").replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")


@given(st.lists(st.builds(Diagnostic, st.just("MC103"), st.text(), st.text(), st.just(3), st.just(4), hint=st.text())))
def test_whatever_a_recipe_says_each_fault_stays_one_command(found: list[Diagnostic]) -> None:
    lines = render_github(found).split("\n") if found else []
    assert len(lines) == len(found)
    for line, one in zip(lines, found, strict=True):
        parts = re.fullmatch(r"::error (?:file=([^:,]*),line=3,col=4,endColumn=5,)?title=MC103::(.*)", line, re.DOTALL)
        assert parts is not None
        assert not re.search(r"[\r\n]|%(?!25|0A|0D|3A|2C)", line)
        if parts[1] is not None:
            assert _unescaped(parts[1]) == one.file
