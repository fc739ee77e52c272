"""``mcomp bench``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, add_store, existing_store, print_json, say
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.deploy.contestants import Contestant
    from mcomp.metrics.comparison import Timed

EPILOG = """\
All contestants take turns within each round; a ratio is of the same round, the figure its median. So ratios hold on a
busy machine, and milliseconds are what they were here. The first contestant is what the others are compared with: of
a run its float ONNX file in ONNX Runtime, where it has one. Half of all rounds lie between the two ratios beside it.

examples:
  mcomp bench                                the newest run: float and simulated in PyTorch, its files in each runtime
  mcomp bench nin_gc --batch 1 --batch 32
  mcomp bench fp32.onnx int8.onnx --engine onnxruntime --threads 2
  mcomp bench fp32.onnx int8.onnx --json

exit codes: 0 measured, 2 usage, 7 a runtime that was asked for by name is not installed
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "files", metavar="RUN|FILE", nargs="*", help="a run, or deployed files (.onnx, .xml, .pt, .pt2, .plan)"
    )
    parser.add_argument(
        "--run", dest="wanted", metavar="RUN", help="a recipe's name, a run's id, or part of it (default: the newest)"
    )
    parser.add_argument(
        "--engine", dest="engines", action="append", metavar="NAME", help="onnxruntime, openvino, torch or tensorrt"
    )
    parser.add_argument(
        "--batch", dest="batches", action="append", type=int, metavar="N", help="samples per call (default: 1 and 32)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each runtime (default: 1)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="measured rounds (default: 30)")
    parser.add_argument("--trust", action="store_true", help="run the local Python file that built the run's network")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Time every contestant at every batch size, and print one table per size."""
    import torch

    from mcomp.deploy.contestants import ENGINES
    from mcomp.metrics.comparison import compare

    for name in arguments.engines or ():
        if name not in ENGINES:
            raise UsageError(f"no runtime `{name}`", code="MC449", hint=f"there are {', '.join(ENGINES)}")
    for what in ("threads", "rounds"):
        if getattr(arguments, what) < 1:
            raise UsageError(f"`--{what} {getattr(arguments, what)}` measures nothing", code="MC449", hint="at least 1")
    torch.set_num_threads(arguments.threads)
    tables = []
    for batch in arguments.batches or (1, 32):
        if batch < 1:
            raise UsageError(f"`--batch {batch}` is no batch", code="MC449", hint="at least 1")
        entered, source = _entered(arguments, batch)
        calls = {f"{place}": one.call for place, one in enumerate(entered)}
        shown = sys.stderr.isatty() and not arguments.json
        timed = compare(calls, rounds=arguments.rounds, progress=_progress if shown else None)
        rows = list(zip(entered, timed.values(), strict=True))
        tables.append({"batch": batch, "rows": [_row(*row) for row in rows]})
        if not arguments.json:
            _print(batch, arguments, rows)
    if arguments.json:
        settings = {"threads": arguments.threads, "rounds": arguments.rounds}
        print_json({"source": source, **settings, "machine": _machine(), "tables": tables})
    return 0


def _entered(arguments: argparse.Namespace, batch: int) -> tuple[list[Contestant], str]:
    """Who takes part, and where they come from."""
    from mcomp.deploy.contestants import TAKES, inputs_of, of_file

    if len(arguments.files) == 1 and not Path(arguments.files[0]).suffix and not Path(arguments.files[0]).exists():
        return _of_run(arguments, batch, arguments.files[0])
    if not arguments.files:
        return _of_run(arguments, batch, arguments.wanted)
    paths = [Path(file) for file in arguments.files]
    for path in paths:
        if path.suffix not in TAKES:
            raise UsageError(f"`{path}` is no deployed file", code="MC449", hint=f"files end in {', '.join(TAKES)}")
        if not path.is_file():
            raise UsageError(f"no file `{path}`", code="MC449", hint="`mcomp export FOLDER` copies a run's files")
    known = next((path for path in paths if path.suffix == ".onnx"), None)
    if known is None:
        raise UsageError("none of the files says what its inputs are", code="MC449", hint="give an ONNX file with them")
    inputs = inputs_of(known, batch)
    entered = []
    for path in paths:
        engines = _engines(path, arguments)
        if not engines:
            asked = ", ".join(arguments.engines or ()) or "none that is installed"
            where = ", ".join(TAKES[path.suffix])
            raise UsageError(
                f"no runtime for `{path}`", code="MC449", why=f"asked for: {asked}", hint=f"it runs in {where}"
            )
        entered += [of_file(path, engine, inputs, arguments.threads) for engine in engines]
    return entered, "files"


def _of_run(arguments: argparse.Namespace, batch: int, wanted: str | None) -> tuple[list[Contestant], str]:
    """Float and simulated model in PyTorch, and every deployed file of the run's last stages."""
    from mcomp.artifact import load_model, read_manifest
    from mcomp.cli.export_verb import needs_code
    from mcomp.cli.run_choice import chosen_run
    from mcomp.deploy.contestants import TAKES, batches, of_file, of_model
    from mcomp.store.logits import seeded_inputs

    store = existing_store(arguments)
    result = chosen_run(store, wanted, ended_well=True)
    made = [(stage, store.object(stage["artifact"])) for stage in result["stages"] if stage["artifact"]]
    held = [(stage, folder) for stage, folder in made if folder is not None]
    if not held:
        raise UsageError(f"run {result['run']} finished no stage", code="MC217", hint="run the recipe again")
    inputs: tuple[Tensor, ...] = batches(seeded_inputs(read_manifest(held[0][1])["inputs"]), batch)
    entered = []
    if needs_code(read_manifest(held[0][1])) and not arguments.trust and "torch" not in (arguments.engines or ()):
        say("the network itself is left out: a local Python file built it, and `--trust` runs that", error=True)
    elif "torch" in (arguments.engines or ("torch",)):
        chosen = {"float": held[0], "simulated": held[-1]} if len(held) > 1 else {"float": held[0]}
        entered += [
            of_model(load_model(folder, trust=arguments.trust), inputs, f"{what}: {stage['id']}")
            for what, (stage, folder) in chosen.items()
        ]
    for stage, folder in held:
        for path in sorted((folder / "files").glob("*")) if (folder / "files").is_dir() else ():
            if path.suffix in TAKES:
                engines = _engines(path, arguments)
                entered += [of_file(path, e, inputs, arguments.threads, f"{stage['id']}: {path.name}") for e in engines]
    if not entered:
        raise UsageError(
            f"nothing of run {result['run']} runs in {', '.join(arguments.engines or ())}",
            code="MC449",
            hint="leave `--engine` out",
        )
    entered.sort(key=lambda one: not (one.engine == "onnxruntime" and one.name.endswith("model.fp32.onnx")))
    return entered, f"run {result['run']}"


def _engines(path: Path, arguments: argparse.Namespace) -> list[Any]:
    """The runtimes that take a file: those asked for by name, else those that are installed."""
    from mcomp.deploy.contestants import TAKES, installed

    taken = TAKES.get(path.suffix, ())
    if arguments.engines:
        return [engine for engine in taken if engine in arguments.engines]
    return [engine for engine in taken if installed(engine)]


def _row(contestant: Contestant, timed: Timed) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "engine": contestant.engine,
        "bytes": contestant.bytes,
        "median_ms": timed.median_ms,
        "p95_ms": timed.p95_ms,
        "speedup": timed.speedup,
        "speedup_quartiles": list(timed.quartiles),
    }


def _print(batch: int, arguments: argparse.Namespace, rows: list[tuple[Contestant, Timed]]) -> None:
    from mcomp.report.table import print_table

    title = f"batch {batch}, threads {arguments.threads}, {arguments.rounds} rounds"
    columns = ("contestant", "runtime", "ms", "p95", "times as fast", "of all rounds", "kB")
    body = [
        (
            contestant.name,
            contestant.engine,
            f"{timed.median_ms:.2f}",
            f"{timed.p95_ms:.2f}",
            f"{timed.speedup:.2f}",
            "{:.2f} .. {:.2f}".format(*timed.quartiles),
            "" if contestant.bytes is None else f"{contestant.bytes / 1e3:.1f}",
        )
        for contestant, timed in rows
    ]
    print_table(title, columns, body)


def _progress(number: int, rounds: int) -> None:
    sys.stderr.write(f"\rround {number} of {rounds}" + ("\r\x1b[K" if number == rounds else ""))
    sys.stderr.flush()


def _machine() -> str:
    from mcomp.training.hardware import processor

    return processor()
