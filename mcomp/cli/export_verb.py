"""``mcomp export FOLDER``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from mcomp.cli.common import add_store, existing_store, say, writing_for_a_person
from mcomp.cli.run_choice import chosen_run
from mcomp.errors import StoreError, UsageError

EPILOG = """\
examples:
  mcomp export out                      the last stage of the newest run that ended well
  mcomp export out --run nin_gc --stage finetune     one stage's; needed where a recipe has branches

The folder holds the deployed files and `model/`, which `mcomp.load_model("out/model")` reads.
A network from your own file needs that file too: `load_model("out/model", trust=True, base_dir="folder of it")`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="where to copy to; it must not exist yet")
    parser.add_argument(
        "--run", dest="wanted", metavar="RUN", help="a run's id, or part of it (default: the newest ok one)"
    )
    parser.add_argument("--stage", metavar="ID", help="a stage's id (default: the last one that finished)")
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy one stage's model and files out of the store."""
    target = Path(arguments.folder)
    if target.exists():
        raise UsageError(f"`{target}` exists", code="MC216", hint="name a folder that does not exist yet")
    store = existing_store(arguments)
    result = chosen_run(store, arguments.wanted, ended_well=True)
    stage = _stage(result, arguments.stage)
    source = store.object(stage["artifact"])
    if source is None:
        raise StoreError(
            f"the artifact of `{stage['id']}` is gone from the store", hint="run the recipe again to make it anew"
        )
    with writing_for_a_person(target, "MC216"):
        names = _copy(source, target)
    listed = ", ".join(["model/", *names])
    say(f"`{stage['id']}` -> {target}: {listed} (run {result['run']}: {result['status']})")
    if code := _own_code(store.manifest(stage["artifact"]) or {}):
        line = f"needs {code}: load it with mcomp.load_model({str(target / 'model')!r}, trust=True, base_dir=FOLDER)"
        say(f"{line}, FOLDER being where that code is")
    return 0


def _own_code(manifest: dict[str, Any]) -> str:
    """What the artifact's network needs beside mcomp: ``my_net.py``; nothing for the networks of mcomp and zoos."""
    from mcomp.models.registry import needs_trust

    try:
        builder = manifest["builder"]["name"]
    except (KeyError, TypeError):
        return ""  # not told here: loading says what is missing
    return f"`{builder.rpartition(':')[0]}`" if isinstance(builder, str) and needs_trust(builder) else ""


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
    from mcomp.engine.lineage import ends, source_of

    finished: dict[str, dict[str, Any]] = {stage["id"]: stage for stage in result["stages"] if stage["artifact"]}
    if not finished:
        raise UsageError(f"run {result['run']} finished no stage", code="MC217", hint="run the recipe again")
    if wanted is None:
        last = ends(result["stages"])
        if len(last) > 1:
            listed = ", ".join(f"`{name}`" for name in last)
            raise UsageError(
                f"run {result['run']} has {len(last)} last stages, one per branch: {listed}",
                code="MC277",
                hint=f"choose one, e.g. with `--stage {last[-1]}`",
            )
        return finished[last[0]]
    if wanted in finished:
        return finished[wanted]
    source = source_of(wanted, result["stages"])
    skipped = f"; it was skipped, what came after it got the model of `{source}`" if source in finished else ""
    if any(stage["id"] == wanted and stage.get("outcome") == "not run" for stage in result["stages"]):
        skipped = "; the run ended before it"
    listed = ", ".join(finished)
    raise UsageError(
        f"run {result['run']} has no finished stage `{wanted}`{skipped}", code="MC217", hint=f"it has: {listed}"
    )
