"""What messages promise has to exist, and a code has to mean one thing."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcomp.cli.main import VERBS

PACKAGE = Path(__file__).parents[2] / "mcomp"
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted(PACKAGE.rglob("*.yaml"))]

#: Codes with one meaning that is found out in several rooms, and that meaning.
SHARED = {
    "MC232": "a person's own code may not run without trust, be it a model or a data set",
    "MC237": "starting weights are missing or do not fit; the engine looks before the model is built",
    "MC312": "an artifact's tensors are damaged; by its container, or by its manifest",
    "MC427": "what a call is given is not what it takes, a model that counts bits among it",
    "MC429": "a batch or the inputs do not fit: of a network, or of a file that was made of it",
    "MC449": "nothing to measure: the words are wrong, or the files they name are",
    "MC457": "layers told twice in `keep` and `prune`; a recipe is refused before it runs, Python when it is called",
    "MC490": "a worker of a search does not get ready, or joined processes die: of a pool, or of a study",
    "MC493": "a study is of another search: the one that begins it looks, and whoever joins",
    "MC494": "a storage or a cluster cannot be reached",
    "MC622": "Optuna, a database's driver or Ray is not installed",
    "MC400": "a stage failed for a reason of its own: the class's default code",
}


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """Every string of a file with its line; what an f-string fills in becomes ``…``."""
    if file.suffix == ".yaml":
        yield from enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def given_codes(file: Path) -> Iterator[str]:
    """The codes that a file gives to errors and findings; those it only looks for stand in a set or a comparison."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    asked = {id(part) for node in ast.walk(tree) if isinstance(node, (ast.Set, ast.Compare)) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in asked and re.fullmatch(r"MC\d{3}", str(node.value)):
            yield str(node.value)


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of every verb, as ``--help`` lists them."""
    found = {"--help", "--version", "--traceback"}
    for verb in VERBS:
        parser = argparse.ArgumentParser(prog="mcomp")
        importlib.import_module(f"mcomp.cli.{verb.replace('-', '_')}_verb").configure(parser)
        found |= set(re.findall(r"--[a-z][a-z-]*", parser.format_usage()))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_message_names_only_verbs_and_options_that_exist(file: Path, options: set[str]) -> None:
    for line, text in literals(file):
        for span in re.findall(r"`([^`]+)`", text):
            spoken = re.match(r"mcomp ([a-z][a-z-]*)", span)
            assert spoken is None or spoken[1] in VERBS, f"{file}:{line} names `mcomp {spoken[1]}`"
            if spoken or span.startswith("--"):
                unknown = set(re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", span)) - options
                assert not unknown, f"{file}:{line} names {unknown}"


def test_a_code_is_used_in_one_room() -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        for code in given_codes(file):
            rooms[code].add(file.relative_to(PACKAGE).parts[0])
    several = {code: sorted(where) for code, where in rooms.items() if len(where) > 1}
    assert {code: where for code, where in several.items() if code not in SHARED} == {}
    assert SHARED.keys() <= several.keys(), "an entry that is no longer shared"
