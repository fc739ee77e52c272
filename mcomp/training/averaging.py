"""An exponential moving average of weights, after Polyak and Juditsky (1992) as Tarvainen and Valpola use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcomp.errors import StageError


class WeightAverage:
    """The mean of a model's weights over the last steps, older ones counting less and less.

    It holds floating-point parameters and the statistics of batch norms. All other buffers, such as a quantiser's
    observed range, have no mean that means anything: they stay those of the weights that are trained. In the first
    steps the decay is ``(1 + n) / (10 + n)``, so that the mean soon forgets where training began.

    Args:
        model: on the device where it is trained, and stays.
        decay: what is left of the mean at each step, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = dict(_averaged(model))
        self._mean = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take the present weights in, after so many finished steps of the run (from 1)."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the mean weights."""
        trained = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self.deliver()
        try:
            yield
        finally:
            _copy(trained, self._live)

    def deliver(self) -> None:
        """Give the model the mean weights for good."""
        _copy(self._mean, self._live)

    def state(self) -> dict[str, Any]:
        """The mean for a snapshot, on the CPU; what lies there already is shared."""
        return {name: tensor.cpu() for name, tensor in self._mean.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Put a mean taken by :meth:`state` back.

        Raises:
            StageError: MC405, it is no mean of these weights.
        """
        if state.keys() != self._mean.keys():
            raise StageError(
                "the training snapshot belongs to another run",
                code="MC405",
                why="it holds no average of these weights",
                hint="run into another store with `--store <folder>`, or delete this one's folder `work`",
            )
        _copy(state, self._mean)


@torch.no_grad()
def _copy(source: dict[str, Any], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _averaged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, weight) for name, weight in model.named_parameters() if weight.is_floating_point())
    for place, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            yield f"{place}.running_mean", module.running_mean
            yield f"{place}.running_var", module.running_var
