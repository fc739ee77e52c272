"""``mcomp export FOLDER``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from mcomp.cli.common import add_store, open_store
from mcomp.cli.run_choice import chosen_run
from mcomp.errors import StoreError, UsageError

EPILOG = """\
examples:
  mcomp export out                      the newest run's last stage
  mcomp export out --run nin_gc --stage finetune

The folder holds the deployed files and `model/`, which `mcomp.load_model("out/model")` reads."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="where to copy to; it must not exist yet")
    parser.add_argument("--run", dest="wanted", metavar="RUN", help="a run's id or a part of it (default: the newest)")
    parser.add_argument("--stage", metavar="ID", help="a stage's id (default: the last one that finished)")
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy one stage's model and files out of the store."""
    target = Path(arguments.folder)
    if target.exists():
        raise UsageError(f"`{target}` exists", code="MC216", hint="name a folder that does not exist yet")
    store = open_store(arguments)
    stage = _stage(chosen_run(store, arguments.wanted), arguments.stage)
    source = store.object(stage["artifact"])
    if source is None:
        raise StoreError(
            f"the artifact of `{stage['id']}` is gone from the store", hint="run the recipe again to make it anew"
        )
    names = _copy(source, target)
    listed = ", ".join(["model/", *names])
    sys.stdout.write(f"`{stage['id']}` -> {target}: {listed}\n")
    return 0


def _copy(source: Path, target: Path) -> list[str]:
    """Fill a neighbour of ``target``, then rename it: a half-made export never bears the name asked for."""
    from mcomp.store.atomic import storage_errors

    partial = target.with_name(f".{target.name}.partial")
    names = []
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial / "model", ignore=shutil.ignore_patterns("files"))
        if (source / "files").is_dir():
            for file in sorted((source / "files").iterdir()):
                shutil.copy2(file, partial / file.name)
                names.append(file.name)
        partial.rename(target)
    return names


def _stage(result: dict[str, Any], wanted: str | None) -> dict[str, Any]:
    finished = [stage for stage in result["stages"] if stage["artifact"]]
    if wanted is None:
        if not finished:
            raise UsageError(f"run {result['run']} finished no stage", code="MC217", hint="run the recipe again")
        last: dict[str, Any] = finished[-1]
        return last
    for stage in finished:
        if stage["id"] == wanted:
            found: dict[str, Any] = stage
            return found
    listed = ", ".join(stage["id"] for stage in finished)
    raise UsageError(f"run {result['run']} has no finished stage `{wanted}`", code="MC217", hint=f"it has: {listed}")
