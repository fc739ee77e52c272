"""A PostgreSQL server of one's own for a test: Debian's package, a Unix socket, no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOMES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_USER = "postgres"  # as root a server refuses to run


def _tool(name: str) -> str:
    found = [str(home / name) for home in reversed(_HOMES) if (home / name).is_file()] or [shutil.which(name) or ""]
    if not found[0]:
        pytest.skip(f"PostgreSQL is not installed: no `{name}`")
    return found[0]


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh, empty server. Skips the test where there is none to start."""
    initdb, server = _tool("initdb"), _tool("pg_ctl")
    as_root = os.geteuid() == 0
    if as_root and _USER not in {each.pw_name for each in pwd.getpwall()}:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user `{_USER}`")
    who = {"user": _USER, "group": _USER, "extra_groups": []} if as_root else {}
    place = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path may have a hundred characters
    try:
        if as_root:
            shutil.chown(place, _USER, _USER)
        data = str(place / "data")

        def call(*words: str) -> None:
            subprocess.run(words, check=True, cwd=place, stdout=subprocess.DEVNULL, **who)  # type: ignore[call-overload]

        call(initdb, "-D", data, "-U", _USER, "-A", "trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        call(server, "-D", data, "-w", "-l", str(place / "log"), "-o", f"-k {place} -h '' -F", "start")
        try:
            yield f"postgresql+psycopg2://{_USER}@/{_USER}?host={place}"
        finally:
            call(server, "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place)
