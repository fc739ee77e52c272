"""One server of killable processes for every suite here: importing torch is what costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    yield opened
    opened.close()
