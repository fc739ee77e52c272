"""Group lasso over whole channels (Wen et al., "Learning Structured Sparsity", arXiv:1608.03665)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.pruning.channel_filters import ChannelFilters
from mcomp.pruning.distribution import distribution
from mcomp.pruning.sparsity import MOMENTUM_GAIN, check_strength


class GroupLasso:
    """s · Σ‖w_c‖ over the channels c of every prunable group; a ``training.Penalty``.

    w_c is all that makes a channel: its filters in every coupled layer, and the scales of batch norms behind them. So
    it works for networks without a batch norm, and takes out channels that residual layers share as one.

    The step is proximal and decoupled from the optimiser: w_c ← w_c · max(0, 1 − 10·lr·s / ‖w_c‖) after each step, the
    pull that SGD with momentum 0.9 gives, whatever the optimiser. A channel reaches zero exactly, all of it at once.

    Args:
        strength: s, above 0. Norms of filters and scales γ are of one size, so that 1e-4 to 1e-3 is usual here too.

    Raises:
        UsageError: the strength makes no sense.
    """

    def __init__(self, strength: float) -> None:
        self.strength = check_strength(strength)
        self._filters: ChannelFilters

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...], steps: int) -> None:
        """Find the channels.

        Raises:
            StageError: MC407, there is none.
        """
        self._filters = ChannelFilters(model, example_inputs)

    def before_step(self, model: nn.Module) -> None:
        """Leave the gradients alone."""

    def after_step(self, model: nn.Module, lr: float, step: int) -> None:
        """Shrink every channel's norm by the same amount, down to zero."""
        pull = MOMENTUM_GAIN * lr * self.strength
        tiny = torch.finfo(torch.float32).tiny
        norms = self._filters.norms(model)
        self._filters.scale(
            model, {name: (1 - pull / norm.clamp(min=tiny)).clamp(min=0) for name, norm in norms.items()}
        )

    def record(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Figures for the history of an epoch: how the norms are spread, see :func:`distribution`."""
        return distribution("norm", self._filters.norms(model))
