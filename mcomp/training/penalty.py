"""What the training loop asks of a sparsity penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Penalty(Protocol):
    """Pulls parameters towards zero while a model trains.

    It keeps nothing that changes from step to step: whatever must survive a resume belongs into the model's parameters
    and buffers, where snapshots keep it, or follows from the weights that the run began with and the number of the
    step, which a resumed run is told again.
    """

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...], steps: int) -> None:
        """Look at the model before the first step of ``steps``; of a resumed run, with the weights it began with."""

    def before_step(self, model: nn.Module) -> None:
        """Change gradients; called after ``backward`` (and gradient clipping), before the optimiser's step."""

    def after_step(self, model: nn.Module, lr: float, step: int) -> None:
        """Change parameters; called after the optimiser's step number ``step`` (from 1), which had the rate ``lr``."""

    def record(self, model: nn.Module, step: int) -> Mapping[str, Any]:
        """Figures for the history, once per epoch, after ``step`` steps."""
