"""``mcomp plan RECIPE``."""

from __future__ import annotations

import argparse

from mcomp.cli.common import add_json, add_recipe, add_store, load_recipe, open_store, print_json

EPILOG = "examples:\n  mcomp plan my.yaml\n  mcomp plan my.yaml --set vars.ratio=0.5 --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; nothing is run."""
    from mcomp.engine import Engine

    recipe = load_recipe(arguments)
    plan = Engine(open_store(arguments)).plan(recipe)
    if arguments.json:
        print_json(plan.as_dict())
    else:
        from mcomp.report.table import print_plan

        print_plan(plan.as_dict())
    return 0
