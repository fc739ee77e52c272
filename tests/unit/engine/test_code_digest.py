from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcomp
from mcomp.engine.code_digest import Reader, is_released, token_digest
from mcomp.errors import PreflightError
from mcomp.store.digest import sha256_json

PACKAGE = Path(mcomp.__file__).parent
BUILT_IN = sorted((PACKAGE / "stages" / "builtin").glob("[a-z]*.py"))


def closure(module_file: Path, root_package: str | None, cache_path: Path | None = None) -> dict[str, str]:
    return Reader(cache_path).closure(module_file, root_package)


def code_digest(module_file: Path, root_package: str | None, cache_path: Path | None = None) -> str:
    return sha256_json(closure(module_file, root_package, cache_path))


def tree(root: Path, **files: str) -> Path:
    """Write each ``a__b`` as ``a/b.py`` below ``root``, ``init`` as ``__init__.py``, and return ``root``."""
    for name, text in files.items():
        *folders, last = name.split("__")
        path = root.joinpath(*folders, "__init__.py" if last == "init" else f"{last}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


SOURCE = '''
"""Docs."""
import os

def f(x, y=(1, 2)):
    # a remark
    if x:
        return f"{x!r:>{y[0]}} {{}} {f'{x}'}"
    return os.sep
'''


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("    # a remark\n", ""),
        SOURCE.replace("a remark", "something else"),
        SOURCE.replace("\n\n", "\n\n\n\n"),
        SOURCE.replace("    ", "  "),
        SOURCE.replace("(x, y=(1, 2))", "(\n    x,\n    y = (1, 2)\n)"),
        SOURCE.replace("return os.sep", "return os.sep  # why"),
    ],
    ids=["no comment", "other comment", "blank lines", "indent width", "line breaks", "trailing comment"],
)
def test_comments_and_layout_do_not_count(same: str) -> None:
    assert same != SOURCE
    assert token_digest(same) == token_digest(SOURCE)


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("(1, 2)", "(1, 3)"),
        SOURCE.replace("{x!r", "{y!r"),
        SOURCE.replace("{{}}", "{{ }}"),
        SOURCE.replace("    return os.sep", "        return os.sep"),
        SOURCE.replace("Docs", "Text"),
    ],
    ids=["number", "name in an f-string", "text of an f-string", "block structure", "docstring"],
)
def test_what_the_code_says_does_count(other: str) -> None:
    assert other != SOURCE
    assert token_digest(other) != token_digest(SOURCE)


def test_neighbouring_tokens_do_not_run_together() -> None:
    assert token_digest("a = bc\n") != token_digest("a = b; c\n")
    assert token_digest("f(ab)\n") != token_digest("f(a)(b)\n")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["x = 1", "def f():\n    return 2", "import os", "y = f'{1}a'"]), min_size=1))
def test_the_digest_is_a_function_of_the_tokens(lines: list[str]) -> None:
    spaced = "\n\n# note\n".join(lines)
    assert token_digest("\n".join(lines) + "\n") == token_digest(spaced + "\n")


def test_every_way_to_import_is_followed(tmp_path: Path) -> None:
    tree(
        tmp_path / "pkg",
        init="",
        a="import pkg.b\nfrom pkg import c\nfrom . import d\nfrom .sub import e\nfrom pkg.sub.f import thing\n\n"
        "def late():\n    from .g import x\n    import os, pkg.h as h\n",
        b="",
        c="",
        d="",
        g="",
        h="from pkg import i\n",
        i="",
        unused="",
        sub__init="",
        sub__e="from .. import b\nfrom ..k import y\n",
        sub__f="",
        k="",
    )
    found = closure(tmp_path / "pkg" / "a.py", "pkg")
    own = {name for name in found if not name.startswith("mcomp")}
    assert own == {"pkg", *(f"pkg.{n}" for n in ("a", "b", "c", "d", "g", "h", "i", "k", "sub", "sub.e", "sub.f"))}


def test_a_type_only_import_does_not_count(tmp_path: Path) -> None:
    tree(
        tmp_path / "pkg",
        init="",
        a="import typing\nif typing.TYPE_CHECKING:\n    from pkg.b import B\nelse:\n    from pkg.c import B\n",
        b="",
        c="",
    )
    assert set(closure(tmp_path / "pkg" / "a.py", "pkg")) == {"pkg", "pkg.a", "pkg.c"}


LAZY = """
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pkg.lazy.one import first
    from pkg.lazy.two import second

_HOMES = {"first": "one", "second": "two", "third": "three"}
here = 1

def __getattr__(name):
    return getattr(importlib.import_module(f"pkg.lazy.{_HOMES[name]}"), name)
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from pkg.lazy import first", {"one"}),
        ("from pkg.lazy import first, second", {"one", "two"}),
        ("from pkg.lazy import here", set()),
        ("from pkg.lazy import third", {"one", "two", "three"}),  # declared nowhere: everything it might be
        ("from pkg import lazy", {"one", "two", "three"}),
        ("import pkg.lazy", {"one", "two", "three"}),
    ],
)
def test_a_lazy_package_is_followed_to_the_module_that_holds_the_name(
    tmp_path: Path, line: str, expected: set[str]
) -> None:
    tree(tmp_path / "pkg", init="", lazy__init=LAZY, lazy__one="", lazy__two="", lazy__three="", a=line + "\n")
    found = set(closure(tmp_path / "pkg" / "a.py", "pkg"))
    assert found == {"pkg", "pkg.a", "pkg.lazy", *(f"pkg.lazy.{name}" for name in expected)}


def test_a_module_imported_by_name_is_followed(tmp_path: Path) -> None:
    tree(
        tmp_path / "pkg",
        init="",
        a='import importlib\nTABLE = {"x": "pkg.b"}\ndef f(n):\n    return importlib.import_module(TABLE[n])\n',
        b="",
        c="",
    )
    assert set(closure(tmp_path / "pkg" / "a.py", "pkg")) == {"pkg", "pkg.a", "pkg.b"}


def test_a_plug_in_counts_its_neighbours_and_the_parts_of_mcomp_it_uses(tmp_path: Path) -> None:
    tree(tmp_path, stage="import shapes\nimport numpy\nfrom mcomp.options import Options\n", shapes="", other="")
    found = closure(tmp_path / "stage.py", None)
    assert {"stage", "shapes", "mcomp.options"} <= set(found)
    assert "other" not in found
    before = code_digest(tmp_path / "stage.py", None)
    (tmp_path / "shapes.py").write_text("SIDES = 4\n")
    assert code_digest(tmp_path / "stage.py", None) != before


def test_the_digest_does_not_depend_on_where_the_code_lies(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        tree(tmp_path / place / "pkg", init="", a="from pkg import b\n", b="x = 1\n")
        digests.add(code_digest(tmp_path / place / "pkg" / "a.py", "pkg"))
    assert len(digests) == 1


def test_the_cache_is_used_until_the_file_changes(tmp_path: Path) -> None:
    module, cache = tmp_path / "a.py", tmp_path / "cache.json"
    module.write_text("x = 1\n")
    first = code_digest(module, None, cache)
    stat = module.stat()
    module.write_text("x = 2\n")
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert code_digest(module, None, cache) == first  # same size and time: the file was not read
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert code_digest(module, None, cache) != first


def test_the_cached_and_the_fresh_closure_are_the_same(tmp_path: Path) -> None:
    for file in BUILT_IN:
        fresh = closure(file, "mcomp")
        assert closure(file, "mcomp", tmp_path / "cache.json") == fresh
        assert closure(file, "mcomp", tmp_path / "cache.json") == fresh


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}}'])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text)
    (tmp_path / "a.py").write_text("x = 1\n")
    assert code_digest(tmp_path / "a.py", None, tmp_path / "cache.json") == code_digest(tmp_path / "a.py", None)
    assert json.loads((tmp_path / "cache.json").read_text())["files"]


def test_a_cache_in_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    code_digest(tmp_path / "a.py", None, tmp_path / "store" / "cache.json")
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_no_python_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(:\n")
    with pytest.raises(PreflightError, match=r"cannot read `.*a.py` as Python") as caught:
        code_digest(tmp_path / "a.py", None)
    assert caught.value.code == "MC293"


@pytest.mark.parametrize("file", BUILT_IN, ids=lambda path: path.stem)
def test_a_stage_does_not_depend_on_the_other_stages_or_the_front_rooms(file: Path) -> None:
    found = closure(file, "mcomp")
    assert f"mcomp.stages.builtin.{file.stem}" in found
    assert not [name for name in found if name.startswith(("mcomp.cli", "mcomp.engine", "mcomp.report"))]


def test_a_checkout_is_not_a_release() -> None:
    assert not is_released("no_such_package_anywhere")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, True),
        ('{"url": "https://x/w.whl", "archive_info": {}}', True),
        ('{"url": "file:///x", "dir_info": {}}', False),
    ],
    ids=["from an index", "from a wheel", "from a folder"],
)
def test_a_release_is_what_was_installed_from_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None, expected: bool
) -> None:
    home = tmp_path / "lib" / "site-packages"
    tree(home / "installed_pkg", init="")
    info = home / "installed_pkg-1.0.dist-info"
    info.mkdir()
    if record is not None:
        (info / "direct_url.json").write_text(record)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    assert is_released("installed_pkg") is expected


def test_a_package_on_the_path_outside_site_packages_is_not_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path / "checked_out", init="")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert not is_released("checked_out")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from mcomp.stages import Stage", "mcomp.stages.base"),
        ("from mcomp.stages import prune", "mcomp.stages.builtin.prune"),
        ("from mcomp import load_model", "mcomp.artifact"),
        ("from mcomp import pruning", "mcomp.pruning.structured"),
        ("import mcomp", "mcomp.pruning.structured"),
    ],
)
def test_what_a_plug_in_takes_through_a_front_door_counts(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "stage.py").write_text(line + "\n")
    assert expected in closure(tmp_path / "stage.py", None)


def test_the_front_door_itself_does_not_count() -> None:
    assert "mcomp" not in closure(PACKAGE / "stages" / "builtin" / "train.py", "mcomp")
