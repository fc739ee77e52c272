"""Cross-layer equalisation and absorption of high biases after Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction" (arXiv:1906.04721).

One scale per tensor serves badly where channels differ in range by orders of magnitude. A ReLU lets a positive factor
through, so what one layer loses of a channel the next one may gain.
"""  # noqa: D205  the paper's title takes two lines

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.quantization.calibration import run_batches
from mcomp.quantization.equalization_pairs import Pair, find_pairs
from mcomp.quantization.inputs import Batch, check_batches, check_model, example_tuple

_SWEEPS = 30
_SETTLED = 1e-3  # of a logarithm
#: Channels further apart are dead: scaling one up would only feed rounding errors.
_LARGEST = 1e3


@dataclass
class Equalized:
    """An equalised copy.

    Attributes:
        model: computes what the original did.
        pairs: ``(layer, next layer)`` whose channels were balanced.
        rows: layers whose filters were brought to one range, which the batch norm behind them takes back.
        absorbed: layer to how many of its channels gave a part of their bias to the next layer.
    """

    model: nn.Module
    pairs: list[tuple[str, str]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    absorbed: dict[str, int] = field(default_factory=dict)


def equalize(model: nn.Module, example_inputs: tuple[Tensor, ...], batches: Iterable[Batch] | None = None) -> Equalized:
    """A copy of a float ``model`` that computes the same with weights that one scale per tensor suits better.

    Of each pair of layers with nothing but positively homogeneous operations between them (ReLU, leaky ReLU, pools,
    dropout), channel i of the first is divided by ``sqrt(r1_i / r2_i)`` and its column of the second multiplied by it:
    ``r1`` is the largest magnitude of a filter with its batch norm, ``r2`` that of a column. Where a batch norm stands
    behind a convolution, the filters are then brought to one range too, which its statistics take back exactly.

    Args:
        model: any float module; one that no graph shows comes back as it is.
        example_inputs: one batch that the model accepts, a tuple or one tensor.
        batches: inputs; with them, what a channel's value is above 0 at the least is taken from its bias and given to
            the next layer's, where no padding stands between: exact for inputs that stay above the least one seen.
    """
    check_model(model)
    example_inputs = example_tuple(example_inputs)
    if batches is not None:
        check_batches(batches)
    equal = copy.deepcopy(model)
    pairs, normed = find_pairs(model, example_inputs)
    found = [_Scaled(pair, equal) for pair in pairs]
    for _ in range(_SWEEPS):
        moved = [pair.balance() for pair in found]
        if max(moved, default=0.0) < _SETTLED:
            break
    made = Equalized(equal, [(pair.first, pair.second) for pair in pairs])
    if batches is not None and found:
        made.absorbed = _absorb(equal, found, list(batches))
    for name, norm in normed.items():
        _even_rows(equal.get_submodule(name), equal.get_submodule(norm))
        made.rows.append(name)
    return made


class _Scaled:
    """A pair with its layers at hand."""

    def __init__(self, pair: Pair, model: nn.Module) -> None:
        self.pair = pair
        self.first: Any = model.get_submodule(pair.first)
        self.second: Any = model.get_submodule(pair.second)
        self.norm: Any = model.get_submodule(pair.norm) if pair.norm else None
        self.behind: Any = model.get_submodule(pair.behind) if pair.behind else None

    @torch.no_grad()
    def balance(self) -> float:
        """Divide and multiply by one factor per channel; the largest ``|log factor|``."""
        rows = self.first.weight.abs().flatten(1).amax(1)
        if self.norm is not None:
            rows = rows * (self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)).abs()
        columns = self._columns().abs().flatten(1).amax(1)
        factor = torch.sqrt(rows / columns).clamp(1 / _LARGEST, _LARGEST)
        factor = torch.where((rows > 0) & (columns > 0), factor, torch.ones_like(factor))
        scaled = self.norm if self.norm is not None else self.first
        scaled.weight.div_(factor.view(-1, *[1] * (scaled.weight.dim() - 1)))
        if scaled.bias is not None:
            scaled.bias.div_(factor)
        self._scale_columns(factor)
        return float(factor.log().abs().max())

    def _columns(self) -> Tensor:
        """The weights of the second layer by input channel: ``[channels, ...]``."""
        weight: Tensor = self.second.weight
        groups = getattr(self.second, "groups", 1)
        by_group = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])  # [groups, out, in, ...]
        channels = self.first.weight.shape[0]
        return by_group.transpose(1, 2).reshape(channels, -1)

    def _scale_columns(self, factor: Tensor) -> None:
        weight: Tensor = self.second.weight
        groups = getattr(self.second, "groups", 1)
        wide = factor.repeat_interleave(weight.shape[1] * groups // len(factor))  # a flattened channel is many features
        by_group = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
        by_group.mul_(wide.view(groups, 1, -1, *[1] * (weight.dim() - 2)))

    @torch.no_grad()
    def absorb(self, least: Tensor) -> int:
        """Take ``least`` from the first layer's bias and give what the second makes of it to the second's."""
        giver = self.norm if self.norm is not None else self.first
        amount = least.clamp(min=0)
        groups = getattr(self.second, "groups", 1)
        weight = self.second.weight
        wide = amount.repeat_interleave(weight.shape[1] * groups // len(amount)).view(groups, 1, -1)
        response = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        gained = (response.view(groups, weight.shape[0] // groups, -1) * wide).sum(2).flatten()
        if self.second.bias is not None:
            self.second.bias.add_(gained)
        else:
            self.behind.running_mean.sub_(gained)
        giver.bias.sub_(amount)
        return int((amount > 0).sum())

    @property
    def can_absorb(self) -> bool:
        """Whether both layers have a place for the constant, and nothing in between changes it."""
        giver = self.norm if self.norm is not None else self.first
        taker = self.second.bias is not None or self.behind is not None
        return self.pair.keeps_constants and giver.bias is not None and taker


def _absorb(model: nn.Module, pairs: list[_Scaled], batches: list[Batch]) -> dict[str, int]:
    """Pair by pair, each on data: the constants of one layer change what the next one sees in nothing."""
    least: dict[str, Tensor] = {}
    handles = []
    able = [pair for pair in pairs if pair.can_absorb]
    for each in able:
        watched = each.norm if each.norm is not None else each.first

        def watch(_module: nn.Module, _args: Any, output: Tensor, name: str = each.pair.first) -> None:
            axis = 1 if output.dim() > 2 else -1
            low = output.detach().movedim(axis, 0).flatten(1).amin(1)
            least[name] = torch.minimum(least[name], low) if name in least else low.clone()

        handles.append(watched.register_forward_hook(watch))
    try:
        run_batches(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    counts = {each.pair.first: each.absorb(least[each.pair.first]) for each in able if each.pair.first in least}
    return {name: count for name, count in counts.items() if count}


@torch.no_grad()
def _even_rows(layer: Any, norm: Any) -> None:
    """Bring every filter to the largest one's range; the batch norm behind it takes that back."""
    peaks = layer.weight.abs().flatten(1).amax(1)
    factor = (peaks / peaks.max()).clamp(min=1 / _LARGEST)
    factor = torch.where(peaks > 0, factor, torch.ones_like(factor))
    layer.weight.div_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.div_(factor)
    mean, variance = norm.running_mean, norm.running_var
    before = torch.sqrt(variance + norm.eps)
    mean.div_(factor)
    variance.div_(factor.square())
    norm.weight.mul_(factor * torch.sqrt(variance + norm.eps) / before)
