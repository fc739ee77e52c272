from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are built from the global generator; every test starts it anew."""
    torch.manual_seed(0)
