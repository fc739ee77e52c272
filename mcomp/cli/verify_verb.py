"""``mcomp verify``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, add_store, existing_store, print_json, say
from mcomp.errors import StoreError

if TYPE_CHECKING:
    from mcomp.store.verification import Verification

EPILOG = """\
What is damaged moves to the store's folder `quarantine`, with the reason beside it; the next `mcomp apply` runs the
stages that made it again. Processes may use the store meanwhile.

examples:
  mcomp verify
  mcomp verify --quick
  mcomp verify --store /data/store --json

exit codes: 0 all is as it was written, 8 something was damaged
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--quick", action="store_true", help="compare presence and sizes only, read no contents")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the store, and say what is damaged."""
    shown = sys.stderr.isatty() and not arguments.json
    found = existing_store(arguments).check(quick=arguments.quick, progress=_progress if shown else None)
    if shown:
        sys.stderr.write("\r\x1b[K")
    if arguments.json:
        print_json({**found.as_dict(), "exit_code": 0 if found.ok else 8})
    else:
        _print(found)
    return 0 if found.ok else 8


def _progress(number: int, total: int, read: int) -> None:
    if number % 16 == 0 or number == total:
        sys.stderr.write(f"\r{number} of {total} things, {read / 1e6:.0f} MB")
        sys.stderr.flush()


def _print(found: Verification) -> None:
    checked = ", ".join(f"{number} {kind}" for kind, number in found.checked.items())
    how = "present and of the right size" if found.quick else "as written"
    say(*found.notices)
    if found.in_use:
        say(f"left out snapshots of {len(found.in_use)} stages that run now")
    if found.ok:
        say(f"`{found.store}`: {checked}: all {how} ({found.bytes / 1e6:.2f} MB)")
        return
    error = StoreError(
        f"`{found.store}`: {len(found.damaged)} of {sum(found.checked.values())} things are damaged",
        code="MC330",
        why="; ".join(f"{one.kind} {one.name[:16]}: {one.faults[0]}" for one in found.damaged[:3])
        + (f"; and {len(found.damaged) - 3} more" if len(found.damaged) > 3 else ""),
        hint="run the same `mcomp apply` again: the stages that made them run anew",
    )
    say(*str(error).splitlines(), error=True)
