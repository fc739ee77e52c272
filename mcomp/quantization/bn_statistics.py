"""Batch norm statistics measured anew, as after anything that moved what the layers in front of them make
(Wu et al., "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576).
"""  # noqa: D205  the paper's title takes two lines

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.batch_statistics import BatchStatistics
from mcomp.quantization.inputs import Batch, check_batches, fitting, inputs_of

BatchNorm = nn.modules.batchnorm._BatchNorm


def reestimate_batch_norms(model: nn.Module, batches: Iterable[Batch]) -> list[str]:
    """Set every running mean and variance to those of all values that reach the batch norm, in place.

    While they are measured, each batch is normalised by its own statistics; everything else is in eval mode. The
    variance is the unbiased one, of all batches together and not a mean of theirs.

    Args:
        model: float or quantised, with its ranges known; changed.
        batches: inputs, or pairs of which the first is used; the larger, the better they stand for all data.

    Returns:
        Names of the batch norms.

    Raises:
        StageError: MC423, there was no batch.
        UsageError: MC429, the batches are none, or the model does not take one.
    """
    check_batches(batches)
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }
    moments = {name: _Moments() for name in norms}
    modes = {module: module.training for module in model.modules()}
    counts: dict[str, Any] = {name: copy.deepcopy(module.num_batches_tracked) for name, module in norms.items()}
    handles = [norm.register_forward_pre_hook(moments[name].see) for name, norm in norms.items()]
    model.eval()
    for norm in norms.values():
        norm.training = True
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = [each.to(device) for each in inputs_of(batch, model)]
                seen += 1
                with fitting(model, f"batch {seen}", inputs):
                    model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if norms and not seen:
        raise StageError("no batch to measure statistics on", code="MC423", hint="pass at least one batch")
    for name, norm in norms.items():
        moments[name].write(norm)
        norm.num_batches_tracked = counts[name]
    return list(norms)


class _Moments:
    """Count, mean and sum of squared deviations per channel, merged batch by batch (Chan et al. 1979), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def see(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].detach()
        count = values.numel() // max(values.shape[1], 1)
        mean, squares = _exact(values) if values.dtype == torch.float64 else _fast(values, count)
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def write(self, norm: Any) -> None:
        if self.mean is None or self.squares is None:  # a branch that no batch took keeps what it had
            return
        with torch.no_grad():
            norm.running_mean.copy_(self.mean)
            norm.running_var.copy_(self.squares / max(self.count - 1, 1))


def _exact(values: Tensor) -> tuple[Tensor, Tensor]:
    lines = values.movedim(1, 0).flatten(1)
    mean = lines.mean(1)
    return mean, (lines - mean[:, None]).square().sum(1)


def _fast(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of one batch in float32, as a batch norm has them: what is lost lies far below what a batch differs from all."""
    seen = BatchStatistics.of(values)
    return seen.mean.double(), seen.variance.double() * count
