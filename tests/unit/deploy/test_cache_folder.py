from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.deploy.cache_folder import cache_folder


def test_the_cache_is_where_a_person_says_or_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("MCOMP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("a", "b") == Path("/home/someone/.cache/mcomp/a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder("a") == Path("/caches/mcomp/a")
    monkeypatch.setenv("MCOMP_CACHE", "/told")
    assert cache_folder("a") == Path("/told/a")
