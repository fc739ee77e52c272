"""Arguments and steps that several verbs share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import StoreError, UsageError, render, visible

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.store import Store


def add_recipe(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """``RECIPE``, or several of them, ``--set`` and ``--trust``."""
    if many:
        parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="recipe files (YAML)")
    else:
        parser.add_argument("recipe", metavar="RECIPE", help="a recipe file (YAML)")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override one value, e.g. `--set vars.ratio=0.5` or `--set stages.prune.regular=16`; repeatable",
    )
    parser.add_argument("--trust", action="store_true", help="run the local Python files that the recipe names")


def add_store(parser: argparse.ArgumentParser) -> None:
    """``--store``."""
    parser.add_argument("--store", metavar="DIR", help="the store (default: $MCOMP_STORE, else .mcomp here)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def add_strict_code(parser: argparse.ArgumentParser) -> None:
    """``--strict-code``."""
    parser.add_argument(
        "--strict-code", action="store_true", help="key mcomp's own code by its digest too, not by its version"
    )


def load_recipe(arguments: argparse.Namespace) -> Recipe:
    """The validated recipe of the command line; warnings go to standard error."""
    from mcomp.recipe import Recipe

    recipe = Recipe.load(arguments.recipe, sets=arguments.sets, trust=arguments.trust)
    if recipe.warnings and not getattr(arguments, "json", False):
        sys.stderr.write(render(recipe.warnings) + "\n")
    return recipe


def open_store(arguments: argparse.Namespace) -> Store:
    """The store that the command line or the environment names; nothing is created yet."""
    from mcomp.store import Store

    return Store(Path(arguments.store or os.environ.get("MCOMP_STORE") or ".mcomp"))


def existing_store(arguments: argparse.Namespace) -> Store:
    """The store that is named, for verbs that only look at what is there.

    Raises:
        StoreError: MC299, there is none.
    """
    store = open_store(arguments)
    if store.exists():
        return store
    why = ""
    if store.root.is_dir():
        why = "the folder is there, and holds no store"
    elif store.root.exists():
        why = "that is a file; a store is a folder"
    raise StoreError(
        f"there is no store at `{store.root}`",
        code="MC299",
        why=why,
        hint="name the folder that `mcomp apply` used, with `--store DIR` or in $MCOMP_STORE",
    )


@contextmanager
def writing_for_a_person(target: Path, code: str) -> Iterator[None]:
    """Turn what the system refuses about a file that the command line names into a usage error: no store is involved.

    Raises:
        UsageError: with ``code``, it cannot be written there.
    """
    try:
        yield
    except StoreError as error:
        hint = f"choose another place, or see to the rights and the room of `{target.absolute().parent}`"
        raise UsageError(
            f"`{target}` cannot be written", code=code, why=error.why or error.message, hint=hint
        ) from error


@contextmanager
def output_to_stderr(wanted: bool = True) -> Iterator[None]:
    """Send what stages, plug-ins and libraries print to standard error: a machine reads standard output."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)  # C++ code writes to the descriptor, past Python's sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def say(*lines: str, error: bool = False) -> None:
    """Print lines to standard output, or to standard error; no text of a recipe or a path drives the terminal."""
    stream = sys.stderr if error else sys.stdout
    stream.write("".join(f"{visible(line)}\n" for line in lines))


def print_json(value: Any) -> None:
    """One JSON object to standard output; NaN and infinities as strings, for which JSON has no word."""
    from mcomp.store.digest import finite

    sys.stdout.write(json.dumps(finite(value), indent=2, default=str) + "\n")
