"""Everything the README shows is run: commands, recipes and Python, in its order, in one folder."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, FlagshipRun, run_mcomp

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> Iterator[str]:
    for block in blocks("sh"):
        for line in block.splitlines():
            command = line.partition("#")[0].strip()
            if command.startswith("mcomp "):
                yield command


@pytest.fixture(scope="module")
def place(flagship: FlagshipRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(flagship.store, folder / ".mcomp")  # the README's first command has filled it
    return folder


def test_every_mcomp_command_of_the_readme_works_in_order(place: Path) -> None:
    found = list(commands())
    assert len(found) >= 10
    for command in found:
        done = run_mcomp(*command.split()[1:], cwd=place)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_commands_for_several_machines_are_understood() -> None:
    """They wait for one another, so they are not run here; their words are those of the command line."""
    typed = re.findall(r"^\w+\$ mcomp (\S+) (.*)$", "\n".join(blocks("console")), flags=re.MULTILINE)
    assert len(typed) == 3
    for verb, words in typed:
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"mcomp.cli.{verb}_verb").configure(parser)
        assert parser.parse_args(words.split())


def test_the_first_two_commands_are_the_ones_that_continuous_integration_runs() -> None:
    for number in ("1", "2"):
        done = subprocess.run(
            [sys.executable, ".ci/readme_command.py", number], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "pip install" in done.stdout


@pytest.mark.parametrize("index", range(len(blocks("yaml"))))
def test_a_recipe_of_the_readme_validates(index: int, place: Path) -> None:
    (place / f"readme{index}.yaml").write_text(blocks("yaml")[index])
    done = run_mcomp("validate", f"readme{index}.yaml", cwd=place)
    assert done.returncode == 0, done.stderr


def test_the_first_recipe_of_the_readme_runs(place: Path) -> None:
    (place / "first.yaml").write_text(blocks("yaml")[0])
    done = run_mcomp("apply", "first.yaml", cwd=place)
    assert done.returncode == 0, done.stderr


QUANTISATION = re.findall(
    r"```yaml\n(.*?)```", README.partition("\n## Quantisation\n")[2].partition("\n## ")[0], re.DOTALL
)


@pytest.mark.parametrize("index", range(3))
def test_the_recipes_on_quantisation_run(index: int, place: Path) -> None:
    (place / f"quantisation{index}.yaml").write_text(QUANTISATION[index])
    done = run_mcomp("apply", f"quantisation{index}.yaml", cwd=place)
    assert done.returncode == 0, done.stderr


SEARCH = README.partition("\n## Search\n")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_the_search_shown_says_what_is_shown(place: Path) -> None:
    recipe, shown = (re.findall(rf"```{language}\n(.*?)```", SEARCH, re.DOTALL)[0] for language in ("yaml", "text"))
    (place / "search.yaml").write_text(recipe)
    done = run_mcomp("apply", "search.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    printed = re.sub(r"[\d.]+", "0", done.stdout + done.stderr)
    assert all(re.sub(r"[\d.]+", "0", line) in printed for line in shown.splitlines())  # figures are of another CPU


def test_the_python_of_the_readme_runs_in_order(place: Path) -> None:
    script = "\n".join(block for block in blocks("python") if "@register" not in block)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_stage_shown_is_the_stage_shipped() -> None:
    shown = next(block for block in blocks("python") if "@register" in block)
    assert shown == (ROOT / "recipes" / "custom_stage" / "clip_weights.py").read_text()


def test_the_error_shown_is_the_error_printed(place: Path) -> None:
    shown = next(block for block in blocks("text") if "error[MC" in block)
    wrong = (place / "recipes" / "nin_gc_prune_quant.yaml").read_text().replace("regular: 8", "regullar: 8")
    (place / "recipes" / "nin_gc_prune_quant.yaml").rename(place / "recipes" / "kept.yaml")
    (place / "recipes" / "nin_gc_prune_quant.yaml").write_text(wrong)
    done = run_mcomp("apply", "recipes/nin_gc_prune_quant.yaml", cwd=place)
    (place / "recipes" / "kept.yaml").rename(place / "recipes" / "nin_gc_prune_quant.yaml")
    assert done.returncode == 3
    assert done.stderr.strip() == shown.strip()


def test_the_screen_shown_has_the_columns_and_stages_printed(place: Path, flagship: FlagshipRun) -> None:
    shown = next(block for block in blocks("text") if "top-1" in block)
    done = run_mcomp("report", flagship.result["run"], cwd=place)
    assert first_words(shown) == first_words(done.stdout)


def first_words(screen: str) -> list[str]:
    """The table's header and the first cell of each row."""
    rows = [re.split(r"[│┃]", line) for line in screen.splitlines() if line.startswith(("│", "┃"))]
    return [*(cell.strip() for cell in rows[0]), *(row[1].strip() for row in rows[1:])]
