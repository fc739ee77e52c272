"""``mcomp apply RECIPE``."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, add_recipe, add_store, load_recipe, open_store, output_to_stderr, print_json

if TYPE_CHECKING:
    from mcomp.engine import RunResult

EPILOG = """\
examples:
  mcomp apply recipes/nin_gc_prune_quant.yaml
  mcomp apply my.yaml --set data.batch_size=32 --set stages.prune.ratio=0.5

Running the same command again goes on where it stopped and reuses every finished stage."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    add_store(parser)
    add_json(parser)
    parser.add_argument("--no-wait", action="store_true", help="refuse (exit 8) what another process is computing")
    parser.add_argument("--log-format", choices=["auto", "plain", "json"], default="auto", help="progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Run the recipe; the exit code is the run's."""
    from mcomp.cli.console import listener_for
    from mcomp.engine import Engine

    recipe = load_recipe(arguments)
    with (
        output_to_stderr(arguments.json),
        listener_for(arguments.log_format, quiet_terminal=arguments.json) as listener,
    ):
        result = Engine(open_store(arguments), listeners=[listener]).apply(recipe, wait=not arguments.no_wait)
    if arguments.json:
        print_json(result.as_dict())
        return result.exit_code
    from mcomp.report.table import print_result

    print_result(result.as_dict())
    sys.stdout.flush()
    sys.stderr.flush()
    _last_words(result, arguments)
    return result.exit_code


def _last_words(result: RunResult, arguments: argparse.Namespace) -> None:
    from mcomp.recipe.diagnostics import visible

    again = shlex.join(["mcomp", *arguments.argv])
    if result.status == "ok":
        sys.stdout.write(f"ok: run {result.run}, {result.seconds:.1f} s; files in {result.folder}\n")
        return
    if result.error is not None:
        sys.stderr.write("\n".join(visible(line) for line in result.error["text"].splitlines()) + "\n")
        if arguments.traceback:
            from pathlib import Path

            sys.stderr.write((Path(result.folder) / "traceback.txt").read_text(encoding="utf-8"))
    words = {
        "failed": "failed",
        "gate_failed": "a gate failed",
        "interrupted": "interrupted, nothing lost",
    }[result.status]
    stopped = next((stage.id for stage in result.stages if stage.status == "failed"), None)
    if result.status == "gate_failed":
        stopped = next(stage.id for stage in result.stages if any(not gate.passed for gate in stage.gates))
    at = f" at `{stopped}`" if stopped else ""
    if result.status == "gate_failed":
        sys.stderr.write(f"{words}{at}: run {result.run}; relax it or change the recipe, finished stages are kept\n")
        return
    sys.stderr.write(f"{words}{at}: run {result.run}; go on with: {again}\n")
