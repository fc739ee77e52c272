"""Empirical bias correction after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (arXiv:1906.04721): quantising shifts the mean of a layer's output, and a bias can take that back.
"""  # noqa: D205  the paper's title takes two lines

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.quantization.inputs import Batch, check_batches
from mcomp.quantization.layer_outputs import common_layers, norms_behind, watch_layer


@dataclass
class Corrected:
    """What a correction did.

    Attributes:
        shifts: layer to the largest mean error of a channel that it had, as a share of that layer's largest mean.
        left: layers with neither a bias nor a batch norm behind them.
    """

    shifts: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def correct_bias(quantised: nn.Module, original: nn.Module, batches: Iterable[Batch]) -> Corrected:
    """Give every output channel of every quantised layer the mean that it has in the float model, in place.

    Layer by layer in order of execution, each fed by the quantised layers before it. A layer without a bias hands its
    error on to the running mean of the batch norm behind it.

    Args:
        quantised: with its ranges known; changed.
        original: the float model that it was made of.
        batches: inputs, or pairs of which the first is used; a sample of the data, kept while this runs.
    """
    check_batches(batches)
    sample = list(batches)
    done = Corrected()
    norms = norms_behind(original, sample)
    for name, calls in common_layers(quantised, original, sample).items():
        wanted, found = (_mean(model, name, sample, calls) for model in (original, quantised))
        error = found - wanted
        layer: Any = quantised.get_submodule(name)
        norm: Any = quantised.get_submodule(norms[name]) if name in norms else None
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias.sub_(error.to(layer.bias))
            elif norm is not None and norm.running_mean is not None:
                norm.running_mean.add_(error.to(norm.running_mean))
            else:
                done.left.append(name)
                continue
        done.shifts[name] = float(error.abs().max() / wanted.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    return done


def _mean(model: nn.Module, name: str, sample: list[Batch], calls: int) -> Tensor:
    """Of each output channel, float64."""
    total: list[Tensor] = []
    count = [0]
    axis = 1 if isinstance(model.get_submodule(name), nn.modules.conv._ConvNd) else -1

    def add(_input: Tensor, output: Tensor) -> None:
        values = output.double().movedim(axis, 0).flatten(1)
        total[:] = [values.sum(1) + (total[0] if total else 0)]
        count[0] += values.shape[1]

    watch_layer(model, name, sample, add, calls=calls)
    return total[0] / count[0]
