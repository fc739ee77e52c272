from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import Diagnostic
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import MAX_DEPTH, parse
from mcomp.recipe.lock import flow
from mcomp.recipe.tree import MapNode, ScalarNode, Source, plain, walk


def load(text: str) -> tuple[Any, list[Diagnostic]]:
    faults = Faults()
    node = parse(Source("r.yaml", text), faults)
    return (None if node is None else plain(node)), faults.errors


def only_fault(text: str) -> Diagnostic:
    found = load(text)[1]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        (".5", 0.5),
        ("5.", 5.0),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        ("0b11", "0b11"),
        ("1e", "1e"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("-.inf", -math.inf),
        ('"5"', "5"),
        ("'true'", "true"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found, faults = load(f"a: {text}")
    assert faults == []
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(load("a: .nan")[0]["a"])


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: 1\nb: 2\na: 3", (3, 1, 1), "duplicate key `a`; the first is on line 1"),
        ("a: !!python/object:os.system x", (1, 4, 27), "tags"),
        ("a: !mine {b: 1}", (1, 4, 7), "tags"),
        ("a: {<<: {b: 1}}", (1, 5, 2), "merge keys"),
        ("a: 1\n---\nb: 1", (2, 1, 3), "one document"),
        ("a:\n\tb: 1", (2, 1, 1), "a tab"),
        ("a: *b", (1, 4, 2), "no anchor"),
        ("a: &b [*b]", (1, 8, 2), "inside the value"),
        ("a: 'x\nb: 1", (1, 4, 1), "never closed"),
        ('a: "x\\q"', (1, 4, 1), "unknown escape"),
        ("a: [1, 2", (1, 4, 1), "never closed"),
        ("a: {b: 1\nc: 2}", (2, 2, 1), "expected `,` or `}` here, inside the `{` of line 1, column 4"),
        ("a: {b: ${c}}", (1, 8, 2), "needs quotes"),
        ("a: b: c", (1, 5, 1), "second `:`"),
        ("a: @b", (1, 4, 1), "cannot start with `@`"),
        ("a: \x00", (1, 4, 1), "U+0000"),
        ("a: \x1b[31m", (1, 4, 1), "U+001B"),
        ('a: "\\ud800"', (1, 4, 8), "surrogate"),
        ("? [a]\n: b", (1, 3, 3), "a key must be a name"),
        ("a: 99999999999999999999", (1, 4, 20), "64 bits"),
        ("s:\n  - a\n - b", (3, 2, 1), "indented differently"),
    ],
)
def test_what_a_recipe_may_not_use_is_pointed_at(text: str, place: tuple[int, int, int], says: str) -> None:
    found = only_fault(text)
    assert (found.line, found.column) == place[:2]
    assert says in found.message
    if found.length > 1:
        assert found.length == place[2]


def test_a_quoted_value_is_marked_from_its_opening_quote_to_its_closing_one() -> None:
    node = parse(Source("r", "é: ['ü', \"ab\"]"), Faults())
    assert isinstance(node, MapNode)
    marks = [(one.mark.column, one.mark.length) for one in walk(node) if isinstance(one, ScalarNode)]
    assert marks == [(5, 3), (10, 4)]


def test_two_uses_of_an_alias_can_be_changed_apart() -> None:
    node = parse(Source("r", "a: &x {k: 1}\nb: *x"), Faults())
    assert isinstance(node, MapNode)
    first, second = node.get("a"), node.get("b")
    assert isinstance(first, MapNode)
    first.entries.clear()
    assert plain(second) == {"k": 1}  # type: ignore[arg-type]


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "10000 values" in only_fault("\n".join(lines)).message


def test_aliases_do_not_get_around_the_depth_limit() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60))]
    assert "deeper" in only_fault("\n".join(lines)).message


@pytest.mark.parametrize("text", ["[" * 500_000, "{a: " * 100_000, "- " * 100_000, "a: " + "[" * (MAX_DEPTH + 1)])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "deeper than 50" in only_fault(text).message


def test_a_million_items_are_refused_early() -> None:
    assert "10000 values" in only_fault("[" + "x," * 500_000 + "]").message


def test_a_huge_scalar_is_only_a_string() -> None:
    assert load("a: " + "x" * 500_000)[0] == {"a": "x" * 500_000}


_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(st.text(), _VALUES, max_size=4))
def test_what_the_lock_writes_the_loader_reads(value: dict[str, Any]) -> None:
    found, faults = load(flow(value).replace("$${", "${"))
    halves = any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(value, ensure_ascii=False))
    if not halves:
        assert faults == []
        expected = json.loads(json.dumps(value, ensure_ascii=False).replace("$${", "${"))
        assert found == expected


@given(st.text(alphabet=st.sampled_from("ab:-{}[]&*!|>'\"%@`#, \n\t?<\\0$~.é\r\u2028"), max_size=40))
def test_any_text_is_read_or_diagnosed_inside_itself(text: str) -> None:
    value, faults = load(text)
    lines = Source("r", text).lines
    for one in faults:
        assert one.line is not None
        assert one.column is not None
        assert 1 <= one.line <= len(lines)
        assert 1 <= one.column <= len(lines[one.line - 1]) + 1
    if value is None and text.strip():
        return
