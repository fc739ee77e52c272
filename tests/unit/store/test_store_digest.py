from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.store.digest import canonical_json, finite, sha256_file, sha256_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_canonical_json_reads_back_to_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))


def test_the_digest_is_that_of_compact_sorted_utf8() -> None:
    assert canonical_json({"b": 1, "a": [True, "γ"]}) == '{"a":[true,"γ"],"b":1}'.encode()
    assert sha256_json({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), {"x": float("inf")}])
def test_a_number_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_text_that_utf8_cannot_hold_and_brackets_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        canonical_json("\ud800")
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="too deeply"):
        canonical_json(nested)


@pytest.mark.parametrize("value", [{1: "a"}, {"deep": [{2: 3}]}, Path("x"), {"a": {1, 2}}])
def test_what_json_would_silently_change_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_finite_leaves_everything_but_non_finite_numbers_as_it_was() -> None:
    assert finite({"a": (1, 2.5, None, True), "b": float("inf")}) == {"a": [1, 2.5, None, True], "b": "inf"}


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
