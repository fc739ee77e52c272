"""Every random generator of the process, seeded in a scope and kept in snapshots."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators; give them back as they were on leaving."""
    before = capture(device)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore(before, device)


def capture(device: str) -> State:
    """The generators' states, as tensors, numbers, strings and lists only."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: State = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: State, device: str) -> None:
    """Put the generators back to a captured state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
