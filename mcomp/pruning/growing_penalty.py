"""Growing regularisation (Wang et al., "Neural Pruning via Growing Regularization", arXiv:2012.09243)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.pruning.channel_filters import ChannelFilters
from mcomp.pruning.distribution import distribution
from mcomp.pruning.sparsity import MOMENTUM_GAIN, check_strength


class GrowingPenalty:
    """An L2 penalty on the least important channels alone, whose strength rises step by step; a ``training.Penalty``.

    In every prunable group the share ``ratio`` of channels with the smallest norm is chosen before training, and driven
    out slowly enough for the others to take over (GReg-1 of the paper). As in :class:`GroupLasso`, a channel is all
    that makes it, and the step is decoupled: w_c ← w_c / (1 + 10·lr·s) after each step, s being the strength then.

    Nothing of it needs a snapshot: the choice follows from the weights that training begins with, the strength from the
    number of the step.

    Args:
        strength: in the last of the rises, above 0; the paper ends at 1.
        ratio: share of the channels of each group, in (0, 1); at least one stays out of it.
        rises: steps of equal height in which the strength grows, spread evenly over the run.

    Raises:
        UsageError: an argument makes no sense.
    """

    def __init__(self, strength: float, ratio: float = 0.5, rises: int = 10) -> None:
        self.strength = check_strength(strength)
        if not 0 < ratio < 1:
            raise UsageError(f"`ratio` is {ratio}; it must lie between 0 and 1, both excluded", code="MC417")
        if rises < 1:
            raise UsageError(f"`rises` is {rises}; it must be at least 1", code="MC417")
        self.ratio = ratio
        self.rises = rises
        self._steps = 1
        self._filters: ChannelFilters
        self._least: dict[str, Tensor] = {}

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...], steps: int) -> None:
        """Choose the channels.

        Raises:
            StageError: MC407, there is none.
        """
        self._steps = steps
        self._filters = ChannelFilters(model, example_inputs)
        self._least = {name: _least(norms, self.ratio) for name, norms in self._filters.norms(model).items()}

    def strength_at(self, step: int) -> float:
        """The strength in step ``step`` (from 1) of the run."""
        return self.strength * -(-step * self.rises // self._steps) / self.rises

    def before_step(self, model: nn.Module) -> None:
        """Leave the gradients alone."""

    def after_step(self, model: nn.Module, lr: float, step: int) -> None:
        """Shrink the chosen channels."""
        factor = 1 / (1 + MOMENTUM_GAIN * lr * self.strength_at(step))
        self._filters.scale(model, {name: 1 - (1 - factor) * chosen for name, chosen in self._least.items()})

    def record(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Figures for the history of an epoch: how the norms are spread, and ``penalty``, the strength by now."""
        return distribution("norm", self._filters.norms(model)) | {"penalty": self.strength_at(step)}


def _least(norms: Tensor, ratio: float) -> Tensor:
    """``[channels]`` 1 for the smallest, 0 for the others; ties by index."""
    chosen = torch.zeros_like(norms)
    count = min(int(ratio * len(norms)), len(norms) - 1)
    chosen[norms.argsort(stable=True)[:count]] = 1
    return chosen
