"""``mcomp gc``."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, add_store, existing_store, print_json, say

if TYPE_CHECKING:
    from mcomp.store.garbage import Collection

EPILOG = """\
Without options it removes what no run of the store leads to: action records and objects without a run, what killed
processes left, and snapshots, caches and quarantined things that nothing used for 30 days. It is safe beside running
processes: what they touched is kept. Look first with `--dry-run`.

examples:
  mcomp gc --dry-run
  mcomp gc --older-than 30d
  mcomp gc --keep-runs 10
  mcomp gc --older-than 12h --keep-runs 3
  mcomp gc --max-size 5GB
"""

_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES = {"B": 1} | {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)}
_SIZES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
_KNOWN_SIZES = {name.lower(): size for name, size in _SIZES.items()}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="also remove runs, and snapshots, caches and quarantined things, older than AGE: 12h, 30d, 8w",
    )
    parser.add_argument(
        "--keep-runs",
        type=_count,
        metavar="N",
        help="also remove runs but the newest N; with --older-than, only those of them that are older",
    )
    parser.add_argument(
        "--max-size",
        type=_size,
        metavar="SIZE",
        help="then remove the oldest, the newest run excepted, until the store is no larger: 500MB, 5GB, 2GiB",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Collect, and say what went."""
    from mcomp.store.garbage import Policy

    policy = Policy(older_than=arguments.older_than, max_bytes=arguments.max_size, keep_runs=arguments.keep_runs)
    found = existing_store(arguments).collect(policy, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(found.as_dict())
    else:
        _print(found)
    return 0


def _print(found: Collection) -> None:
    from mcomp.report.table import print_table

    counted: dict[tuple[str, str], list[int]] = {}
    for removal in found.removed:
        counted.setdefault((removal.item.kind, removal.reason), []).append(removal.item.bytes)
    verb = "would go" if found.dry_run else "removed"
    if counted:
        rows = [(kind, reason, str(len(sizes)), _megabytes(sum(sizes))) for (kind, reason), sizes in counted.items()]
        print_table(verb, ("kind", "reason", "number", "MB"), rows)
    if found.in_use:
        processes = ", ".join(str(process) for process in found.processes)
        size = _megabytes(sum(item.bytes for item in found.in_use))
        say(f"kept {len(found.in_use)} things ({size} MB) that process {processes} may be using")
    say(*(f"note: {note}" for note in found.notes))
    before, freed = found.bytes_before, found.bytes_freed
    say(f"`{found.store}`: {_megabytes(before)} MB; {_megabytes(freed)} MB in {len(found.removed)} things {verb}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"`{text}` is no age; write a number and m, h, d or w, e.g. `30d`")
    return float(match[1]) * _AGES[match[2]]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2].lower() not in _KNOWN_SIZES:
        raise argparse.ArgumentTypeError(f"`{text}` is no size; write a number and MB, GB or GiB, e.g. `5GB`")
    return int(float(match[1]) * _KNOWN_SIZES[match[2].lower()])


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"`{text}` is no number of runs; write e.g. `10`")
    return int(text)
