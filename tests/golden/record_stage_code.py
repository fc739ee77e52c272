"""Record the import closure of each stage, and of mcomp's other code that keys vouch for by a version.

    python -m tests.golden.record_stage_code                     after raising a version
    python -m tests.golden.record_stage_code --because "…"       where no outcome changes: says why
    python -m tests.golden.record_stage_code --anew              forget what was recorded, before a first release

A release keys its stages by their versions, so a change of code that computes something else must raise one.
``tests/golden/test_stage_code.py`` holds the tree to the record.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcomp.data.spec import DATASETS
from mcomp.engine.own_code import VERSIONS, Code, data_code, measuring_code, model_code, stage_code
from mcomp.models.registry import MODELS
from mcomp.stages import registry

RECORD = Path(__file__).with_name("stage_code.json")
COMMAND = "python -m tests.golden.record_stage_code"
_SHORT = 12


@dataclass(frozen=True)
class Now:
    """Code as it stands in the tree: its version, its digest, and its files with theirs."""

    version: int
    digest: str
    files: dict[str, str]
    home: str
    """Where the version is raised."""


def tree() -> dict[str, Now]:
    """Every built-in stage by name, and ``models.<name>``, ``data.<name>``, ``metrics``."""
    own_code = "mcomp/engine/own_code.py, `VERSIONS`"
    found = {}
    for name in registry.BUILT_IN:
        cls = registry.get(name)
        found[name] = _now(stage_code(cls), cls.version, f"{cls.__module__.replace('.', '/')}.py")
    for name in MODELS:
        found[f"models.{name}"] = _now(model_code(name), VERSIONS["models"], own_code)
    for name in DATASETS:
        found[f"data.{name}"] = _now(data_code(name), VERSIONS["data"], own_code)
    found["metrics"] = _now(measuring_code(), VERSIONS["metrics"], own_code)
    return found


def faults(record: dict[str, Any], now: dict[str, Now]) -> list[str]:
    """What the tree and the record disagree in, a sentence each, with what to do."""
    found = [f"`{name}` is recorded and is no more: run `{COMMAND}`" for name in record["code"] if name not in now]
    for name, code in now.items():
        known = record["code"].get(name)
        if known is None or code.version > known["version"]:
            found.append(f"`{name}` version {code.version} is not recorded yet: run `{COMMAND}`")
        elif code.version < known["version"]:
            found.append(f"`{name}` went from version {known['version']} back to {code.version}: raise it again")
        elif code.digest[:_SHORT] != _last(known):
            files = ", ".join(changed_files(record, code)) or "an import that came or went"
            found.append(
                f"the code of `{name}` changed and its version {code.version} did not: {files}. "
                f"If any outcome changes, raise the version in {code.home} and run `{COMMAND}`; "
                f'if none does, run `{COMMAND} --because "<why no outcome changes>"`'
            )
    return found


def changed_files(record: dict[str, Any], code: Now) -> list[str]:
    """Modules of a closure that are not as recorded."""
    return [name for name, digest in code.files.items() if record["files"].get(name) != digest]


def renewed(record: dict[str, Any] | None, now: dict[str, Now], because: str = "") -> tuple[dict[str, Any], list[str]]:
    """The record brought up to the tree, and the names that hold it up: changed, neither raised nor explained."""
    code: dict[str, Any] = {}
    open_questions = []
    for name, current in sorted(now.items()):
        known = (record or {"code": {}})["code"].get(name)
        digest = current.digest[:_SHORT]
        if known is None or current.version > known["version"]:
            code[name] = {"version": current.version, "digest": digest, "acknowledged": []}
        elif current.version < known["version"] or (digest != _last(known) and not because):
            open_questions.append(name)
        else:
            news = [] if digest == _last(known) else [{"digest": digest, "reason": because}]
            code[name] = {**known, "acknowledged": [*known["acknowledged"], *news]}
    files = {name: digest for current in now.values() for name, digest in current.files.items()}
    return {"code": code, "files": dict(sorted(files.items()))}, open_questions


def _now(code: Code, version: int, home: str) -> Now:
    files = {name: digest[:_SHORT] for name, digest in code.files.items()}
    return Now(version, code.digest, files, home)


def _last(known: dict[str, Any]) -> str:
    acknowledged = known["acknowledged"]
    return str(acknowledged[-1]["digest"] if acknowledged else known["digest"])


def main() -> int:
    """Bring the record up to the tree, or say what has to be decided first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--because", default="", metavar="REASON", help="why no outcome changes though code did")
    parser.add_argument("--anew", action="store_true", help="forget what was recorded")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() and not arguments.anew else None
    now = tree()
    found, open_questions = renewed(record, now, arguments.because.strip())
    if open_questions and record is not None:
        print("\n".join(faults(record, {name: now[name] for name in now})))
        return 1
    RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"recorded {len(found['code'])} closures of {len(found['files'])} files in {RECORD}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
