"""``mcomp search --join STUDY``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, print_json, say
from mcomp.errors import UsageError, plural

if TYPE_CHECKING:
    from mcomp.search.study import Trial

EPILOG = """\
A recipe's `search: {study: PLACE}` hands its candidates out at PLACE, a journal file on a folder that the machines
share, or a database. `mcomp apply` of that recipe runs the search; every process that joins takes candidates from it,
and goes home when the search has ended. Kill one whenever you like: what it was at is tried elsewhere.

examples:
  mcomp search --join shared/search.journal
  mcomp search --join shared/search.journal#second --setup /mnt/shared/run/setup
  mcomp search --join postgresql+psycopg2://mcomp@db/searches --setup /mnt/shared/run/setup --wait 600
"""

#: What people are told of a trial's level.
LOOKS = {"proxy": "cheap look", "full": "close look"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--join",
        metavar="STUDY",
        required=True,
        help="the `study` of a search that is running: a journal file or a database's URL, and `#NAME`",
    )
    parser.add_argument(
        "--setup",
        metavar="FOLDER",
        help="what candidates are made of, as this machine sees it (default: where the search says)",
    )
    parser.add_argument("--device", help="where candidates run (default: as with the search): cpu, cuda, cuda:1")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="go home after so long without a candidate")
    parser.add_argument("--trust", action="store_true", help="run the local Python file that builds the model")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Try candidates until the search has ended."""
    import torch

    from mcomp.engine.signals import stop_on_signals
    from mcomp.search.shared_study import join, open_study
    from mcomp.stages.searching.setup import SearchSetup

    shared = open_study(arguments.join, make=False)
    if shared.done:  # its setup may be gone by now
        if arguments.json:
            print_json({"study": arguments.join, "tried": 0, "counted": 0, "done": True})
        else:
            say(f"the search has ended: `{arguments.join}` has no more candidates")
        return 0
    folder = Path(arguments.setup or shared.setup)
    torch.set_num_threads(1)
    setup = SearchSetup.read(folder, trust=arguments.trust, device=arguments.device)
    if setup.study != shared.fingerprint:
        raise UsageError(
            f"the setup in `{folder}` is of another search than the study `{arguments.join}`",
            code="MC493",
            hint="name the folder that this search wrote: `--setup FOLDER`, or the right study",
        )
    evaluate = setup.evaluator()
    counted = 0

    def told(trial: Trial, counts: bool) -> None:
        nonlocal counted
        counted += counts
        figure = trial.error if trial.fitness is None else f"{trial.fitness:.2f} %"
        late = "" if counts else " (too late: it had been given to another)"
        sys.stderr.write(f"candidate {trial.number}, {LOOKS.get(trial.level, trial.level)}: {figure}{late}\n")

    def notice(text: str) -> None:
        sys.stderr.write(text + "\n")

    with stop_on_signals(notice) as stop:
        tried = join(shared, evaluate, should_stop=stop, wait=arguments.wait, on_trial=told)
    if arguments.json:
        print_json({"study": arguments.join, "tried": tried, "counted": counted, "done": shared.done})
    else:
        say(f"{plural(tried, 'look')} at candidates of `{arguments.join}`, {counted} of them counted")
    if stop():
        return 128 + stop()
    return 0
