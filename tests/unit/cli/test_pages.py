"""Every code has a page, and what the pages of recipe faults show does what they say."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from mcomp.cli.help_verb import GROUPS, page, page_names
from mcomp.cli.main import VERBS, main
from mcomp.deploy.qdq.check import DECLARED_IN
from mcomp.deploy.qdq.rules import RULES
from mcomp.errors import RecipeError
from mcomp.recipe import Recipe
from mcomp.stages import registry
from tests.conftest import ROOT

PACKAGE = ROOT / "mcomp"
BESIDE = ROOT / "recipes" / "custom_stage"  # the pages on plug-ins and bases name its files
NAMES = page_names()
CODES = [name for name in NAMES if re.fullmatch(r"MC\d{3}", name)]
RULE_PAGES = [name for name in NAMES if re.fullmatch(r"[EPGOV]\d+", name)]
TOPICS = [name for name in NAMES if name not in {*CODES, *RULE_PAGES}]
SECTIONS = ["What it means", "How it comes about", "How to mend it"]
#: A class's own code, which nothing raises: every fault it carries has a more exact one. And a call's.
NEVER_SHOWN = {"MC100", "MC129"}
RECIPE_CODES = [code for code in CODES if code.startswith("MC1") and code not in NEVER_SHOWN]


def codes_in_source() -> set[str]:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"\"(MC\d{3})\"", file.read_text(encoding="utf-8")))
    return found


def recipe_below(code: str, heading: str) -> tuple[str, list[str], bool]:
    """The first YAML block of a section, and the options that its first lines ask for."""
    section = page(code).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    assert found is not None, f"{code} shows no recipe under `{heading}`"
    text = found[1]
    return text, re.findall(r"^# with --set (.+)$", text, flags=re.MULTILINE), "# with --trust\n" in text


@cache
def options() -> set[str]:
    """Every option of every verb, and of the other programs that the pages name."""
    found = {"--help", "--version", "--traceback", "--verbose", "--upgrade"}
    for verb in VERBS:
        parser = argparse.ArgumentParser(prog="mcomp")
        importlib.import_module(f"mcomp.cli.{verb.replace('-', '_')}_verb").configure(parser)
        found |= set(re.findall(r"--[a-z][a-z-]*", parser.format_usage()))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies beside a page's recipe; its plug-in is not known from another test's copy."""
    monkeypatch.setattr(registry, "_STAGES", {name: registry.get(name) for name in registry.BUILT_IN})
    for name in ("recipe.yaml", "clip_weights.py"):
        shutil.copy(BESIDE / name, tmp_path)
    return tmp_path


def codes_of(text: str, sets: list[str], trust: bool, folder: Path) -> list[str]:
    (folder / "my.yaml").write_text(text)
    try:
        recipe = Recipe.from_text(text, sets, trust, name="my.yaml", base_dir=folder)
    except RecipeError as error:
        return [one.code for one in error.diagnostics]
    return [one.code for one in recipe.warnings]


def test_every_code_of_the_source_has_a_page_and_every_page_a_code() -> None:
    assert codes_in_source() - set(CODES) == set(), "codes without a page in mcomp/cli/pages"
    assert set(CODES) - codes_in_source() == set(), "pages of codes that nothing raises any more"


@pytest.mark.parametrize("code", CODES)
def test_a_code_s_page_has_the_four_parts(code: str) -> None:
    text = page(code)
    assert text.startswith(f"# {code}: ")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    assert all(part.strip() for part in re.split(r"^#.*$", text, flags=re.MULTILINE)[2:])
    assert max(map(len, text.splitlines())) <= 120


def test_every_rule_of_a_qdq_file_has_a_page_that_says_whom_it_concerns() -> None:
    spoken = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for name, rule in RULES.items():
        kind = "An error" if rule.severity == "error" else "A warning"
        assert f"\n{kind} for {', '.join(spoken[target] for target in rule.targets)}.\n" in page(name)
    assert DECLARED_IN
    assert {*RULE_PAGES} == {*RULES, "G5"}  # the one that no single node breaks


@pytest.mark.parametrize("name", RULE_PAGES)
def test_a_rule_s_page_has_the_three_parts(name: str) -> None:
    assert page(name).startswith(f"# {name}: ")
    assert re.findall(r"^## (.+)$", page(name), flags=re.MULTILINE) == ["What it means", "How to mend it"]
    assert max(map(len, page(name).splitlines())) <= 120


@pytest.mark.parametrize("code", RECIPE_CODES)
def test_the_recipe_on_a_page_gives_exactly_its_code(code: str, folder: Path) -> None:
    assert codes_of(*recipe_below(code, "How it comes about"), folder) == [code]


@pytest.mark.parametrize("code", RECIPE_CODES)
def test_the_mended_recipe_on_a_page_is_valid(code: str, folder: Path) -> None:
    assert codes_of(*recipe_below(code, "How to mend it"), folder) == []


@pytest.mark.parametrize("topic", TOPICS)
def test_every_recipe_of_a_topic_is_valid(topic: str, folder: Path) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", page(topic), flags=re.DOTALL):
        assert codes_of(text, [], True, folder) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_python_on_a_page_is_python(name: str) -> None:
    for text in re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL):
        ast.parse(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_only_what_exists(name: str) -> None:
    text = page(name)
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    for verb in [
        *re.findall(r"`mcomp ([a-z][a-z-]*)", text),
        *re.findall(r"^mcomp ([a-z][a-z-]*)", commands, flags=re.MULTILINE),
    ]:
        assert verb in VERBS or name == "MC295", f"{name} names `mcomp {verb}`"
    for option in re.findall(r"--[a-z][a-z-]*", " ".join([*re.findall(r"`(?:mcomp [^`]*)?--[^`]*`", text), commands])):
        assert option in options() or name == "MC296", f"{name} names `{option}`"
    for wanted in re.findall(r"`mcomp help ([\w-]+)`", text):
        assert wanted in NAMES or wanted in VERBS


def test_help_lists_every_topic_and_every_code_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}  " in printed for name in CODES)
    assert all(re.search(rf"^  {name} ", printed, flags=re.MULTILINE) for name in TOPICS)
    assert all(f"{words}:\n" in printed for start, words in GROUPS.items() if any(c.startswith(start) for c in CODES))


def test_help_lists_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["codes"]] == CODES
    assert {one["name"] for one in found["topics"]} == set(TOPICS)
    assert all(one["title"] for one in [*found["codes"], *found["topics"]])


@pytest.mark.parametrize("wanted", ["MC103", "mc103"])
def test_help_prints_a_page_as_it_is_where_no_terminal_reads(wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", wanted]) == 0
    assert capsys.readouterr().out == page("MC103")
    assert main(["help", wanted, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == page("MC103")


def test_help_on_a_terminal_is_rendered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["help", "MC103"]) == 0
    printed = capsys.readouterr().out
    assert "unknown option or key" in printed
    assert "```" not in printed


@pytest.mark.parametrize(
    ("wanted", "first", "way"),
    [
        ("export", "usage: mcomp export", ["stages", "export"]),
        ("packed", "packed", ["help", "packed-weights"]),
        ("sensitivity", "sensitivity", ["help", "sensitivity-stage"]),
    ],
)
def test_of_two_things_with_one_name_help_says_how_to_read_the_other(
    wanted: str, first: str, way: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["help", wanted]) == 0
    printed = capsys.readouterr().out
    assert printed.lstrip().startswith(first)
    assert f"`mcomp {' '.join(way)}`" in printed.splitlines()[-1]
    assert main(way) == 0
    assert capsys.readouterr().out not in printed


def test_help_on_a_verb_is_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "validate"]) == 0
    assert "usage: mcomp validate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [("gate", "did you mean `gates`?"), ("aply", "did you mean `apply`?"), ("MC119", "MC113"), ("xyzzy", "mcomp help")],
)
def test_help_on_what_is_not_there_suggests_what_is(
    wanted: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["help", wanted]) == 2
    printed = capsys.readouterr().err
    assert "error[MC298]" in printed
    assert advice in printed


def test_the_pages_are_packaged() -> None:
    assert "cli/pages/*.md" in Path(ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["help", "prune"], "every pruned width"),
        (["help", "data"], "image_folder"),
        (["help", "model"], "nin_gc"),
        (["help", "103"], "MC103"),
        (["help", "apply", "--json"], '"name": "apply"'),
        (["models", "--data", "--json"], '"test_fraction"'),
    ],
)
def test_help_is_found_under_the_words_of_a_recipe(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert said in capsys.readouterr().out
