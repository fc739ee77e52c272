"""``mcomp apply RECIPE``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mcomp.cli.common import (
    add_json,
    add_recipe,
    add_store,
    add_strict_code,
    load_recipe,
    open_store,
    output_to_stderr,
    print_json,
    say,
)
from mcomp.errors import InterruptedRun, plural

if TYPE_CHECKING:
    from mcomp.engine import RunResult, SweepResult
    from mcomp.engine.events import Listener
    from mcomp.recipe import Recipe

EPILOG = """\
examples:
  mcomp apply recipes/nin_gc_prune_quant.yaml
  mcomp apply my.yaml --set data.batch_size=32 --set stages.prune.ratio=0.5
  mcomp apply my.yaml --track tensorboard --track mlflow=http://127.0.0.1:5000

Running the same command again goes on where it stopped and reuses every finished stage.
A recipe with a `sweep` runs every point of it, and what two points have in common once."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    add_store(parser)
    add_json(parser)
    add_strict_code(parser)
    parser.add_argument("--no-wait", action="store_true", help="refuse (exit 8) what another process is computing")
    parser.add_argument("--log-format", choices=["auto", "plain", "json"], default="auto", help="progress on stderr")
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME[=WHERE]",
        help="send the run to `tensorboard`, `mlflow` or `wandb` too; repeatable",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the recipe, or every point of its sweep; the exit code is the run's."""
    from mcomp.engine import Engine

    recipe = load_recipe(arguments)
    result: RunResult | SweepResult
    try:
        with output_to_stderr(arguments.json), _listeners(arguments) as listeners:
            strict = arguments.strict_code
            engine = Engine(open_store(arguments), listeners=listeners, progress=False, strict_code=strict)
            action = engine.sweep if recipe.variants else engine.apply
            result = action(recipe, wait=not arguments.no_wait)
    except InterruptedRun as error:
        if arguments.json:
            print_json({"status": "interrupted", "exit_code": error.exit_status, "errors": [error.as_dict()]})
        say(f"interrupted before anything was run; go on with: {_again(arguments)}", error=True)
        return error.exit_status
    if arguments.json:
        print_json(result.as_dict())
    elif recipe.variants:
        _show_sweep(cast("SweepResult", result), recipe, arguments)
    else:
        _show_run(cast("RunResult", result), recipe, arguments)
    return result.exit_code


@contextmanager
def _listeners(arguments: argparse.Namespace) -> Iterator[Sequence[Listener]]:
    """The console, and the trackers that were asked for."""
    from mcomp.cli.console import listener_for

    with listener_for(arguments.log_format, quiet_terminal=arguments.json) as console:
        if not arguments.track:
            yield [console]
            return
        from mcomp.report.trackers import trackers

        with trackers(arguments.track, open_store(arguments).root) as found:
            yield [console, *found]


def _show_run(result: RunResult, recipe: Recipe, arguments: argparse.Namespace) -> None:
    """The table, and as the last line what happened."""
    from mcomp.report.table import print_result

    print_result(result.as_dict())
    sys.stdout.flush()
    sys.stderr.flush()
    if result.ok:
        recorded = f"run {result.run}" if result.run else "everything is cached"
        where = result.folder or "the store, which can only be read"
        say(f"ok: {recorded}, {result.seconds:.1f} s; files in {where}")
        return
    _write_error(result, arguments)
    say(_ending(result, recipe, arguments), error=True)


def _show_sweep(result: SweepResult, recipe: Recipe, arguments: argparse.Namespace) -> None:
    """One row per run, then how each that is not ok ended, and as the last line what happened."""
    from mcomp.report.table import print_sweep

    print_sweep(result.as_dict())
    sys.stdout.flush()
    sys.stderr.flush()
    good = sum(run.ok for run in result.runs)
    for number, (run, point) in enumerate(zip(result.runs, recipe.variants, strict=False), 1):
        if run.status in ("failed", "gate_failed", "refused"):
            _write_error(run, arguments)
            say(f"run {number}: {_ending(run, point, arguments)}", error=True)
    words = f"{good} of {result.points} runs of `{result.name}` ended well"
    if result.ok:
        seconds = sum(run.seconds for run in result.runs)
        where = Path(result.runs[-1].folder).parent if result.runs[-1].folder else "the store, which can only be read"
        say(f"ok: all {result.points} runs of `{result.name}`, {seconds:.1f} s; files in {where}")
    elif result.stopped_by:
        say(f"interrupted, nothing lost: {words}; go on with: {_again(arguments)}", error=True)
    elif any(run.status != "gate_failed" for run in result.runs if not run.ok):
        say(f"{words}; go on with: {_again(arguments)}", error=True)
    else:
        say(f"{words}, in the others a gate failed; finished stages are kept", error=True)


def _write_error(result: RunResult, arguments: argparse.Namespace) -> None:
    if result.error is None:
        return
    say(*result.error["text"].splitlines(), error=True)
    file = Path(result.folder, "traceback.txt")
    if arguments.traceback and result.folder and file.is_file():
        sys.stderr.write(file.read_text(encoding="utf-8"))


def _ending(result: RunResult, recipe: Recipe, arguments: argparse.Namespace) -> str:
    """One sentence: what happened, in which run, and how to go on."""
    if result.status == "refused":
        return f"refused, nothing was run; go on with: {_again(arguments)}"
    if result.status == "gate_failed":
        return _gate_ending(result, recipe)
    last = next((stage for stage in result.stages if stage.status == "failed"), None)
    words = "interrupted, nothing lost" if result.status == "interrupted" else "failed"
    if last is not None and last.ending == "waiting refused":
        words = "not waited for another process"
    return f"{words}{'' if last is None else f' at `{last.id}`'}: run {result.run}; go on with: {_again(arguments)}"


def _gate_ending(result: RunResult, recipe: Recipe) -> str:
    """What failed, what the store keeps of the run, and what was not run."""
    kept = [stage.id for stage, entry in zip(result.stages, recipe.stages, strict=True) if stage.key and entry.cache]
    stays = f"finished and kept: {', '.join(kept)}" if kept else "nothing of it is kept"
    failures = (i for i, stage in enumerate(result.stages) if not all(gate.passed for gate in stage.gates))
    place = next(failures, None)
    if place is None:
        return f"a condition that had to hold did not: run {result.run}; {stays}"
    failed = result.stages[place]
    count = sum(not gate.passed for gate in failed.gates)
    where = f"{'a gate' if count == 1 else f'{count} gates'} failed at `{failed.id}`"
    if failed.id in kept:
        stays += f" (`{failed.id}` too: a changed gate is held against it without running it again)"
    rest = sum(stage.status == "skipped" for stage in result.stages[place + 1 :])
    not_run = f"; not run: {plural(rest, 'stage')} after it" if rest else ""
    return f"{where}: run {result.run}; {stays}{not_run}"


def _again(arguments: argparse.Namespace) -> str:
    return shlex.join(["mcomp", *arguments.argv])
