"""``mcomp init FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mcomp.cli.common import say, writing_for_a_person
from mcomp.errors import UsageError

EPILOG = "examples:\n  mcomp init my.yaml\n  mcomp init my.yaml --force"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="the recipe to write")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Write a commented recipe that validates as it stands."""
    from mcomp.recipe.template import init_text
    from mcomp.store.atomic import write_text

    target = Path(arguments.file)
    if target.exists() and not arguments.force:
        raise UsageError(f"`{target}` exists", code="MC214", hint="choose another name, or replace it with `--force`")
    if not target.parent.is_dir():
        raise UsageError(f"folder `{target.parent}` does not exist", code="MC214", hint="create it first")
    with writing_for_a_person(target, "MC214"):
        write_text(target, init_text(target.stem))
    say(f"wrote {target}; next: mcomp apply {target}")
    return 0
