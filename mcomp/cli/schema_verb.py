"""``mcomp schema``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mcomp.cli.common import say

EPILOG = """\
examples:
  mcomp schema > recipe.schema.json
  mcomp schema --write recipes/recipe.schema.json
  mcomp schema --plugin ./my_stage.py --write recipe.schema.json

Editors with a YAML language server read it from the recipe's first line:
  # yaml-language-server: $schema=./recipe.schema.json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--write", metavar="FILE", help="write it there instead of to standard output")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="run this local stage file first")


def run(arguments: argparse.Namespace) -> int:
    """Print or write the JSON Schema (draft 2020-12) of recipes, with every registered stage.

    With plug-ins named, it refuses every stage that is neither built in nor theirs.
    """
    from mcomp.recipe.json_schema import recipe_json_schema
    from mcomp.stages import registry

    for plugin in arguments.plugin:
        registry.load_file(Path(plugin))
    text = json.dumps(recipe_json_schema(complete=bool(arguments.plugin)), indent=2) + "\n"
    if arguments.write is None:
        sys.stdout.write(text)
        return 0
    from mcomp.store.atomic import write_text

    write_text(Path(arguments.write), text)
    say(f"wrote {arguments.write}")
    return 0
