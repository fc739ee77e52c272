"""``mcomp plan RECIPE``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcomp.cli.common import (
    add_json,
    add_recipe,
    add_store,
    add_strict_code,
    load_recipe,
    open_store,
    output_to_stderr,
    print_json,
)

if TYPE_CHECKING:
    from mcomp.engine import Engine
    from mcomp.engine.forecast_costs import Outlook
    from mcomp.engine.planning import Plan
    from mcomp.engine.shelf import Shelf

EPILOG = """\
examples:
  mcomp plan my.yaml
  mcomp plan my.yaml --set vars.ratio=0.5 --json
  mcomp plan my.yaml --shapes
  mcomp plan my.yaml --probe

Figures that only a run can tell are ranges. `--probe` gives CPU seconds (of all threads) and wall seconds.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    add_store(parser)
    add_json(parser)
    add_strict_code(parser)
    parser.add_argument(
        "--shapes", action="store_true", help="say parameters, MACs and output shape of every stage (loads the model)"
    )
    parser.add_argument(
        "--probe", action="store_true", help="time three batches of every training stage: seconds, peak memory"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; nothing is run, and nothing that could not succeed is planned."""
    from mcomp.engine import Engine
    from mcomp.engine.forecast_costs import refuse_impossible
    from mcomp.engine.shelf import Shelf
    from mcomp.engine.signals import stop_on_signals

    recipe = load_recipe(arguments)
    engine = Engine(open_store(arguments), strict_code=arguments.strict_code)
    with output_to_stderr(arguments.json), _refused_for_want_of_a_backend(), stop_on_signals() as stop, stop.at_once():
        shelf = Shelf()  # the points of a sweep share their data
        looks = [_costed(plan, engine, shelf, arguments) for plan in engine.plans(recipe)]
        refuse_impossible(looks)
    found = [look.as_dict() for look in looks]
    if arguments.json:
        print_json({"runs": found} if recipe.variants else found[0])
    else:
        from mcomp.report.plan_table import print_outlook

        for one in found:
            print_outlook(one)
    return 0


@contextmanager
def _refused_for_want_of_a_backend() -> Iterator[None]:
    from mcomp.errors import BackendMissingError, PreflightError

    try:
        yield
    except BackendMissingError as error:  # nothing was asked of the runtime yet: the plan is refused
        raise PreflightError(error.message, code=error.code, why=error.why, hint=error.hint) from error


def _costed(plan: Plan, engine: Engine, shelf: Shelf, arguments: argparse.Namespace) -> Outlook:
    from mcomp.engine.forecast_costs import outlook

    found = outlook(plan, engine.store)
    if not (arguments.shapes or arguments.probe):
        return found
    from mcomp.engine.forecasting import shapes
    from mcomp.engine.workbench import Workbench

    bench = Workbench(plan.recipe, engine.store, engine.keys(plan.recipe), shelf)
    found, forecasts = shapes(found, bench)
    if arguments.probe:
        from mcomp.engine.probe import probe

        found = probe(found, bench, forecasts)
    return found
