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
from mcomp.errors import BackendMissingError, PreflightError

if TYPE_CHECKING:
    from mcomp.engine.core import Keyring
    from mcomp.engine.forecast_costs import Outlook
    from mcomp.engine.planning import Plan
    from mcomp.engine.shelf import Shelf
    from mcomp.store import Store

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
        shelf, keys_of = Shelf(), engine.keyring()  # the points of a sweep share their data, and what decides keys
        plans = engine.plans(recipe, keys_of)
        looks = [_costed(plan, engine.store, keys_of, shelf, arguments) for plan in plans]
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
    try:
        yield
    except BackendMissingError as error:  # nothing was asked of the runtime yet: the plan is refused
        raise PreflightError(error.message, code=error.code, why=error.why, hint=error.hint) from error


def _costed(plan: Plan, store: Store, keys_of: Keyring, shelf: Shelf, arguments: argparse.Namespace) -> Outlook:
    from mcomp.engine.forecast_costs import outlook

    found = outlook(plan, store)
    if not (arguments.shapes or arguments.probe):
        return found
    from mcomp.engine.forecasting import shapes
    from mcomp.engine.workbench import Workbench

    bench = Workbench(plan.recipe, store, keys_of(plan.recipe), shelf)
    found, forecasts = shapes(found, bench)
    if arguments.probe:
        from mcomp.engine.probe import probe

        found = probe(found, bench, forecasts)
    return found
