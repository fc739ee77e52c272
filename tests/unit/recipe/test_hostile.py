"""Whatever the text, the answer is a recipe or diagnostics, soon."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcomp.errors import RecipeError
from mcomp.recipe import Recipe, render
from tests.unit.recipe.samples import FLAGSHIP, HEAD, stages

_PIECES = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "${",
        "${ratio}",
        "&a ",
        "*a",
        "!x ",
        "<<: ",
        "null",
        "nan",
        ".nan",
        "\t",
        "#",
        "|",
        "\x00",
        "\u202e",
        "é",
        "-1",
        "1e999",
        "0x",
        "true",
        "prune",
        "stages",
        "? ",
        "---\n",
        "\ud800",
    ]
)
_EDITS = st.lists(st.tuples(st.integers(0, len(FLAGSHIP)), st.integers(0, 6), _PIECES), min_size=1, max_size=4)


def answer(text: str, *sets: str) -> None:
    try:
        Recipe.from_text(text, sets)
    except RecipeError as error:
        found = error.diagnostics
    else:
        return
    assert any(one.severity == "error" for one in found)
    for one in found:
        assert one.message
        assert one.line is None or one.column <= len(one.source_line) + 1  # type: ignore[operator]
    assert "nothing was run" in render(found)


@settings(max_examples=150, deadline=None)
@given(_EDITS)
def test_a_damaged_recipe_is_read_or_diagnosed(edits: list[tuple[int, int, str]]) -> None:
    text = FLAGSHIP
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    answer(text)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            "",
            "stages",
            "stages.prune",
            "stages[2]",
            "vars",
            "vars.ratio",
            "data",
            "model.name",
            "x",
            "stages.prune.gates[0].vs",
        ]
    ),
    st.sampled_from(
        [
            "=",
            "=[]",
            "={}",
            "=null",
            "=${ratio}",
            "=${",
            "=nan",
            "=[[",
            "==",
            ".x=1",
            "[0]=1",
            '["a.b"]=1',
            "=\n- a",
            "=a: b",
        ]
    ),
    st.text(max_size=5),
)
@example("stages", "=[]", "")
def test_any_set_is_applied_or_diagnosed(path: str, value: str, more: str) -> None:
    answer(FLAGSHIP, path + value + more)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "stages:\n" + "  - a: {b: c}\n" * 2400,
        HEAD + "stages:\n" + "  - train: {b: c}\n" * 1500,
        stages("train: {" + ", ".join(f"epoch{n}: 1" for n in range(4000)) + "}"),
        stages("train: {" + "x" * 500_000 + ": 1}"),
        stages("train: {epochs: " + "x" * 500_000 + "}"),
        stages("- " * 40 + "train"),
        "a: " + "${b" * 100_000,
        "a: '" + "${b}" * 100_000 + "'",
        "\n" * 500_000 + "version: 1",
        "#" * 500_000 + "\nversion: 1",
    ],
    ids=range(10),
)
def test_a_hostile_recipe_is_answered(text: str) -> None:
    answer(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a " + "x" * 200_000 + "\nb: [" + "*a, " * 9000 + "]\n",
        stages("train") + "vars: {a: " + "x" * 200_000 + '}\nmetadata: {b: "' + "${a}" * 50_000 + '"}\n',
        stages("train") + "vars: {a: [" + "x, " * 2000 + "]}\nmetadata: [" + '"${a}", ' * 2000 + "]\n",
    ],
    ids=["aliases", "text", "lists"],
)
def test_repeating_a_long_value_is_refused_before_it_is_written_out(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text)
    assert "1 MiB" in render(caught.value.diagnostics)
