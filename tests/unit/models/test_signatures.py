"""What a factory takes is read from its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.errors import UsageError
from mcomp.models import lenet
from mcomp.models.signatures import keywords_of


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def make(num_classes, width=4, *, depth=2): ...", ["num_classes", "width", "depth"]),
        ("def make(first, /, width=4): ...", ["width"]),
        ("class make:\n    def __init__(self, width): ...", ["width"]),
        ("def make(): ...", []),
        ("def make(**kwargs): ...", None),
        ("@wrapped\ndef make(width): ...", None),
        ("class make(Base): ...", None),
        ("def make(width): ...\nmake = wrapped(make)", None),
        ("from other import make", None),
        ("from other import *\ndef make(width): ...", None),
        ("if x:\n    def make(width): ...", None),
        ("def other(width): ...", None),
        ("def make(", None),
    ],
)
def test_keywords_are_known_only_where_the_source_tells(source: str, found: list[str] | None, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(source)
    assert keywords_of(file, "make") == found


def test_a_misspelled_option_of_a_built_in_network_is_named() -> None:
    with pytest.raises(UsageError, match="`num_clases`") as caught:
        lenet(num_clases=10)
    assert "did you mean `num_classes`?" in caught.value.hint
