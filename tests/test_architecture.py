"""The house rules that a program can check: who imports whom, how long files are, what stays free of torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mcomp"
FILES = sorted(PACKAGE.rglob("*.py"))

LIBRARIES = ("pruning", "quantization", "search", "training", "models", "data", "metrics", "deploy")
FOUNDATION = {"errors", "options", "suggest", "surgery"}
APPLICATION = ("engine", "recipe", "stages", "store", "cli", "report")

#: Room to the rooms it may import, beside itself and errors/options/surgery.
MAY_IMPORT = {
    "errors": set(),
    "options": set(),
    "surgery": set(),
    "suggest": set(),
    "models": {"artifact"},
    "data": {"models"},  # a user's file is imported the same way for both
    "metrics": {"data"},
    "training": {"data", "models", "metrics"},
    "pruning": {"metrics", "models", "training"},
    "quantization": {"metrics", "models", "data", "training"},
    "search": {"deploy", "quantization", "pruning", "training", "data", "models", "metrics"},
    "deploy": {"quantization", "training", "data", "models", "metrics"},
    "artifact": {"models", "store"},
    "store": set(),
    "stages": {*LIBRARIES, "store", "artifact"},
    "recipe": {"stages", "models", "data", "training"},
    "engine": {"recipe", "stages", "store", "artifact", *LIBRARIES},
    "report": {"engine", "recipe"},
    "cli": {"report", "engine", "recipe", "store", "artifact", "stages", *LIBRARIES},
}
#: Only the registry and the protocol of the stages are known to the recipe.
RECIPE_SEES_OF_STAGES = {"mcomp.stages", "mcomp.stages.registry", "mcomp.stages.base"}


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module == "mcomp":
                yield from (f"mcomp.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_an_import_points_right_or_down(file: Path) -> None:
    room = room_of(file)
    if room in ("__init__", "__main__"):
        return
    allowed = MAY_IMPORT[room] | {room} | FOUNDATION
    for module in imports_of(file):
        if not module.startswith("mcomp."):
            continue
        target = module.split(".")[1]
        if target == "__version__":
            continue
        assert target in allowed, f"{file.relative_to(ROOT)} imports {module}; `{room}` may import {sorted(allowed)}"
        if room == "recipe" and target == "stages":
            assert module in RECIPE_SEES_OF_STAGES


@pytest.mark.parametrize("room", LIBRARIES)
def test_a_library_knows_nothing_of_recipes_and_stores(room: str) -> None:
    assert not MAY_IMPORT[room] & set(APPLICATION)


def test_no_file_is_longer_than_500_lines() -> None:
    long = {str(file.relative_to(ROOT)): text for file in FILES if (text := file.read_text().count("\n")) > 500}
    assert not long


def test_no_function_is_longer_than_70_lines() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 70
    ]
    assert not long


def test_only_the_command_line_writes_to_the_terminal() -> None:
    for file in FILES:
        if room_of(file) in ("cli", "report"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = getattr(node, "func", None)
            assert not (isinstance(called, ast.Name) and called.id == "print"), f"{file}:{node.lineno}"  # type: ignore[attr-defined]


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(sorted(name for name in sys.modules if '.' not in name)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return set(done.stderr.split())


HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "tensorrt"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mcomp, mcomp.stages, mcomp.data, mcomp.models, mcomp.quantization, mcomp.pruning", HEAVY | {"numpy"}),
        ("import mcomp.engine, mcomp.deploy, mcomp.training, mcomp.metrics, mcomp.artifact", HEAVY),
        ("from mcomp.cli.main import main\nmain(['--help'])", HEAVY | {"numpy", "rich", "pydantic", "yaml"}),
        ("from mcomp.cli.main import main\nmain(['apply', '--help'])", HEAVY | {"numpy", "rich"}),
        ("from mcomp.cli.main import main\nmain(['validate', 'recipes/nin_gc_prune_quant.yaml'])", HEAVY | {"rich"}),
        (
            "from mcomp.cli.main import main\nmain(['plan', 'recipes/nin_gc_prune_quant.yaml', '--store', 'absent'])",
            HEAVY,
        ),
        (
            "from mcomp.cli.main import main\n"
            "main(['explain', 'recipes/nin_gc_prune_quant.yaml', 'prune', '--store', 'absent'])",
            HEAVY | {"rich"},
        ),
        ("from mcomp.cli.main import main\nmain(['help', 'MC103'])", HEAVY | {"rich"}),
        ("from mcomp.cli.main import main\nmain(['stages', 'prune'])", HEAVY),
        ("from mcomp.cli.main import main\nmain(['schema'])", HEAVY),
    ],
)
def test_light_commands_load_nothing_heavy(code: str, absent: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not loaded_after(code) & absent
