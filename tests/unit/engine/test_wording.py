from __future__ import annotations

from typing import Any

import pytest

from mcomp.engine.wording import changes, value_text

TOKENS = {"kind": "tokens", "digest": "1"}


def words(old: dict[str, Any], new: dict[str, Any], **recorded: Any) -> list[str]:
    return [change.text for change in changes(old, new, **recorded)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"options": {"a": 1}}, {"options": {"a": True}}, ["option `a` 1 -> true"]),
        ({"options": {"a": [1]}}, {"options": {"a": [1, 2]}}, ["option `a` [1] -> [1, 2]"]),
        ({"options": {}}, {"options": {"a": 0.5}}, ["option `a` null -> 0.5"]),
        ({"data": None}, {"data": {"content": "x"}}, ["it looks at the data now"]),
        ({"data": {"content": "x"}}, {"data": {"content": "y"}}, ["the content of the data"]),
        ({"version": 1}, {"version": 2}, ["the stage's version 1 -> 2"]),
        ({"numerics": {"torch": "2.1"}}, {"numerics": {"torch": "2.2"}}, ["torch 2.1 -> 2.2"]),
        (
            {"parts": {"tensorrt": "absent"}},
            {"parts": {"tensorrt": "10.1"}},
            ["version or device of `tensorrt` absent -> 10.1"],
        ),
        ({"upstream": {"model": {}}}, {"upstream": {"artifact": "1"}}, ["it follows another stage now"]),
        ({"upstream": {"artifact": "1"}}, {"upstream": {"artifact": "2"}}, []),
        ({"unheard": 1}, {"unheard": 2}, ["unheard 1 -> 2"]),
    ],
)
def test_each_component_has_its_words(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert words(old, new) == expected


def test_code_is_told_by_files_where_they_were_recorded() -> None:
    old, new = {"code": TOKENS}, {"code": {**TOKENS, "digest": "2"}}
    then = {"code": {"files": {"a": "1", "b": "1", "c": "1"}}}
    now = {"code": {"files": {"a": "1", "b": "2", "d": "1"}}}
    assert words(old, new, then=then, now=now) == ["code of the stage: `b`, `c`, `d`"]
    assert words(old, new) == ["code of the stage (its files were not recorded)"]


def test_another_way_of_keying_code_is_told_as_that() -> None:
    release = {"kind": "release", "version": 1}
    assert words({"code": release}, {"code": TOKENS}) == [
        "code of the stage is keyed another way: by version -> by digest"
    ]
    assert words({"measuring": release}, {"measuring": {"kind": "release", "version": 2}}) == [
        "code that measures models: version 1 -> 2"
    ]


def test_a_long_value_is_cut() -> None:
    assert len(value_text("x" * 500)) == 48
