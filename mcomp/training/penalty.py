"""What the training loop asks of a sparsity penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn


class Penalty(Protocol):
    """Pulls parameters towards zero while a model trains.

    It holds no state of its own: whatever must survive a resume belongs into the model's parameters and buffers,
    where snapshots keep it.
    """

    def before_step(self, model: nn.Module) -> None:
        """Change gradients; called after ``backward`` (and gradient clipping), before the optimiser's step."""

    def after_step(self, model: nn.Module, lr: float) -> None:
        """Change parameters; called after the optimiser's step, ``lr`` being the rate of that step."""

    def record(self, model: nn.Module) -> Mapping[str, Any]:
        """Figures for the history, once per epoch."""
