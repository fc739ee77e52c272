"""``mcomp validate RECIPE``."""

from __future__ import annotations

import argparse
import sys

from mcomp.cli.common import add_json, add_recipe, print_json

EPILOG = "examples:\n  mcomp validate my.yaml\n  mcomp validate my.yaml --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print every fault; 3 if there is one. Warnings never change the exit code."""
    from mcomp.errors import RecipeError
    from mcomp.recipe import Recipe
    from mcomp.recipe.diagnostics import render

    try:
        recipe = Recipe.load(arguments.recipe, sets=arguments.sets, trust=arguments.trust)
    except RecipeError as error:
        if not arguments.json:
            raise
        print_json(_as_json(error.diagnostics))
        return error.exit_code
    if arguments.json:
        print_json(_as_json(recipe.warnings))
        return 0
    if recipe.warnings:
        sys.stderr.write(render(recipe.warnings) + "\n")
    count = len(recipe.stages)
    sys.stdout.write(f"{arguments.recipe}: valid, {count} stage{'s' * (count != 1)}\n")
    return 0


def _as_json(diagnostics: object) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {"errors": [], "warnings": []}
    assert isinstance(diagnostics, list | tuple)
    for one in diagnostics:
        found["errors" if one.severity == "error" else "warnings"].append(one.as_dict())
    return found
