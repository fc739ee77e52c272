"""``mcomp report [RUN]``."""

from __future__ import annotations

import argparse

from mcomp.cli.common import add_json, add_store, existing_store, print_json
from mcomp.cli.run_choice import chosen_run

EPILOG = "examples:\n  mcomp report\n  mcomp report nin_gc_prune_quant --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("wanted", nargs="?", metavar="RUN", help="a run's id or a part of it (default: the newest)")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of a finished run."""
    result = chosen_run(existing_store(arguments), arguments.wanted)
    if arguments.json:
        print_json(result)
    else:
        from mcomp.report.table import print_result

        print_result(result)
    return 0
