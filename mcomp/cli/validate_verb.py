"""``mcomp validate RECIPE``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, add_recipe, print_json, say
from mcomp.errors import Diagnostic, RecipeError, plural, render

if TYPE_CHECKING:
    from mcomp.recipe import Recipe

EPILOG = """\
examples:
  mcomp validate my.yaml
  mcomp validate recipes/*.yaml --trust
  mcomp validate my.yaml --json              {"errors": […], "warnings": […]}
  mcomp validate a.yaml b.yaml --json        {"files": [{"file", "errors", "warnings"}, …]}
  mcomp validate my.yaml --format github     annotations for a pull request"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser, many=True)
    parser.add_argument(
        "--format", choices=("human", "json", "github"), default="human", help="what to print (default: human)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print every fault; 3 if there is one. Warnings never change the exit code."""
    arguments.json = arguments.json or arguments.format == "json"  # so that an error is JSON too
    names = arguments.recipes
    found = {name: _check(name, arguments) for name in dict.fromkeys(names)}
    if arguments.json:
        files = [{"file": name, **_as_json(diagnostics)} for name, (_, diagnostics) in found.items()]
        print_json({"files": files} if len(files) > 1 else _as_json(found[names[0]][1]))
    else:
        _print(found, github=arguments.format == "github")
    return 3 if any(recipe is None for recipe, _ in found.values()) else 0


def _check(name: str, arguments: argparse.Namespace) -> tuple[Recipe | None, tuple[Diagnostic, ...]]:
    from mcomp.recipe import Recipe

    try:
        recipe = Recipe.load(name, sets=arguments.sets, trust=arguments.trust)
    except RecipeError as error:
        if arguments.traceback:
            traceback.print_exc()
        return None, error.diagnostics
    return recipe, tuple(recipe.warnings)


def _print(found: dict[str, tuple[Recipe | None, tuple[Diagnostic, ...]]], *, github: bool) -> None:
    # recipes that share a base share its faults: said once
    all_of_them = list(dict.fromkeys(one for _, diagnostics in found.values() for one in diagnostics))
    all_of_them.sort(key=lambda one: one.severity != "error")
    if github:
        from mcomp.recipe.diagnostics import render_github

        sys.stdout.write("".join(f"{line}\n" for line in render_github(all_of_them).splitlines()))
        return
    if all_of_them:
        sys.stderr.write(render(all_of_them) + "\n")
    for name, (recipe, _) in found.items():
        if recipe is not None:
            say(f"{name}: valid, {_size(recipe)}")


def _size(recipe: Recipe) -> str:
    text, runs = plural(len(recipe.stages), "stage"), len(recipe.variants)
    return f"{text}, {runs} runs" if runs else text


def _as_json(diagnostics: Iterable[Diagnostic]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"errors": [], "warnings": []}
    for one in diagnostics:
        found["errors" if one.severity == "error" else "warnings"].append(one.as_dict())
    return found
