"""``mcomp export FOLDER``."""

from __future__ import annotations

import argparse
import json
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
  mcomp export out --to openvino --to mnn=4          and in the formats of other runtimes, weights of mnn in 4 bits

Formats: onnx, pt2 (torch.export), torchscript, openvino, ncnn, mnn. Each file is run and held against the model.
A file is called by its format, `mnn.model.mnn`, as those of the stage `export` are.
The folder holds the deployed files and `model/`, which `mcomp.load_model("out/model")` reads.
A network from your own file needs that file too: `load_model("out/model", trust=True, base_dir="folder of it")`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="where to copy to; it must not exist yet")
    parser.add_argument(
        "--run",
        dest="wanted",
        metavar="RUN",
        help="a recipe's name, a run's id, or part of it (default: the newest ok one)",
    )
    parser.add_argument("--stage", metavar="ID", help="a stage's id (default: the last one that finished)")
    parser.add_argument(
        "--to",
        dest="formats",
        action="append",
        default=[],
        metavar="FORMAT[=BITS]",
        help="also write the model in this format, its weights in BITS (mnn: 8, 4, 2; ncnn: 16); repeatable",
    )
    parser.add_argument("--trust", action="store_true", help="run the local Python file that built the network")
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy one stage's model and files out of the store."""
    target = Path(arguments.folder)
    if target.exists():
        raise UsageError(f"`{target}` exists", code="MC216", hint="name a folder that does not exist yet")
    formats = dict(_format(word) for word in arguments.formats)
    store = existing_store(arguments)
    result = chosen_run(store, arguments.wanted, ended_well=True)
    stage = _stage(result, arguments.stage)
    source = store.object(stage["artifact"])
    if source is None:
        raise StoreError(
            f"the artifact of `{stage['id']}` is gone from the store", hint="run the recipe again to make it anew"
        )
    manifest = store.manifest(stage["artifact"]) or {}
    if formats and needs_code(manifest) and not arguments.trust:
        raise UsageError(
            f"the network is built by {needs_code(manifest)}, which is code of your own",
            code="MC232",
            hint="add `--trust` to run it",
        )
    with writing_for_a_person(target, "MC216"):
        names = _copy(source, target, formats, arguments.trust)
    listed = ", ".join(["model/", *names])
    say(f"`{stage['id']}` -> {target}: {listed} (run {result['run']}: {result['status']})")
    if code := needs_code(manifest):
        line = f"needs {code}: load it with mcomp.load_model({str(target / 'model')!r}, trust=True, base_dir=FOLDER)"
        say(f"{line}, FOLDER being where that code is")
    return 0


def needs_code(manifest: dict[str, Any]) -> str:
    """What the artifact's network needs beside mcomp: ``my_net.py``; nothing for the networks of mcomp and zoos."""
    from mcomp.models.registry import needs_trust

    try:
        builder = manifest["builder"]["name"]
    except (KeyError, TypeError):
        return ""  # not told here: loading says what is missing
    return f"`{builder.rpartition(':')[0]}`" if isinstance(builder, str) and needs_trust(builder) else ""


def _format(word: str) -> tuple[str, int | None]:
    """Name and weight bits of ``mnn=4``.

    Raises:
        UsageError: MC446, no such format, or not these bits.
    """
    from mcomp.deploy.formats.export import check_bits, find_format

    name, given, bits = word.partition("=")
    find_format(name).require()
    if given and not bits.isdigit():
        raise UsageError(f"`{word}` names no number of bits", code="MC297", hint="write e.g. `--to mnn=4`")
    wanted = int(bits) if given else None
    check_bits(name, wanted)
    return name, wanted


def _write(model_folder: Path, target: Path, formats: dict[str, int | None], trust: bool) -> list[str]:
    """The model once more per format, under the names that the stage `export` gives; what was written."""
    from mcomp.artifact import load_model
    from mcomp.deploy.formats.export import export
    from mcomp.deploy.formats.names import file_stem
    from mcomp.store.logits import seeded_inputs

    model = load_model(model_folder, trust=trust)
    inputs = seeded_inputs(json.loads((model_folder / "manifest.json").read_text(encoding="utf-8"))["inputs"])
    names = []
    for name, bits in formats.items():
        made = export(model, inputs, target / file_stem(name), name, weight_bits=bits)
        names += [path.name for path in made.files]
        against = {"simulated": "the simulation", "weights": "its trained weights", "float": "the model"}
        size = f"{made.bytes / 1e6:.2f} MB"
        say(f"`{name}`: {size}, {made.relative_error:.1e} apart from {against[made.reference]}", *made.notes)
    return names


def _copy(source: Path, target: Path, formats: dict[str, int | None], trust: bool) -> list[str]:
    """Fill a neighbour of ``target``, then rename it: a half-made export never bears the name asked for."""
    from mcomp.store.atomic import storage_errors

    partial = target.with_name(f".{target.name}.partial")
    names = []
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial / "model", ignore=shutil.ignore_patterns("files"))
        written = _write(partial / "model", partial, formats, trust) if formats else []
        if (source / "files").is_dir():
            for file in sorted((source / "files").iterdir()):
                names.append(file.name)
                if file.name not in written:  # what is asked for now goes before what the stage wrote
                    shutil.copy2(file, partial / file.name)
        names += [name for name in written if name not in names]
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
