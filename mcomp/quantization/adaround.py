"""AdaRound after Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (arXiv:2004.10568).

Rounding each weight to the nearest level is not what changes a layer's output least. Here each weight learns whether to
go up or down: ``h(V) = clip(sigmoid(V) * 1.2 - 0.1, 0, 1)`` takes the place of rounding, the layer's output on a sample
is brought near that of the float layer, and ``1 - |2 h - 1| ** beta`` with a falling beta drives each h to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.inputs import Batch, check_batches
from mcomp.quantization.integers import along
from mcomp.quantization.layer_outputs import common_layers, watch_layer
from mcomp.quantization.layers import QuantizedLayer, QuantLinear, conv_transpose
from mcomp.quantization.parameter_values import quantized_parameters

_ZETA, _GAMMA = 1.1, -0.1
_BETAS = (20.0, 2.0)
_WARM_UP = 0.2
_REGULARISATION = 0.01
_BATCH = 32


@dataclass(frozen=True)
class Rounded:
    """What became of one layer: squared error of its output with nearest and with learned rounding, and how many
    weights went the other way; or why it was left as it was.
    """  # noqa: D205  one sentence

    layer: str
    nearest: float = 0.0
    learned: float = 0.0
    moved: int = 0
    why: str = ""


def adaptive_rounding(
    quantised: nn.Module,
    original: nn.Module,
    batches: Iterable[Batch],
    *,
    iterations: int = 1000,
    lr: float = 0.01,
    seed: int = 0,
) -> list[Rounded]:
    """Learn for every weight of every quantised layer whether it is rounded up or down, in place.

    Layer by layer in order of execution, each fed by the quantised layers before it and held against the float one. The
    outcome are latent weights that lie on their grid, so that plain rounding gives them back; the grid stays where it
    is, to the bit, and a layer that this would move, or that gains nothing, keeps its weights. Reports that compare
    with float weights, and :func:`mcomp.quantization.restore_float`, find these weights from here on: whoever wants
    the network as it was keeps ``original``.

    Args:
        quantised: with its ranges known; changed. Convolutions and linear layers that are called once take part.
        original: the float model that it was made of.
        batches: inputs, or pairs of which the first is used; what each layer reads and makes of them is kept in memory.
        iterations: optimiser steps (Adam) per layer.
        lr: of these steps.
        seed: of the choice of samples.
    """
    check_batches(batches)
    sample = list(batches)
    done = []
    for name, calls in common_layers(quantised, original, sample).items():
        layer = quantised.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        grid = _Grid.of(layer)
        why = "it is called several times" if calls > 1 else "" if _computable(layer) else "no convolution, not linear"
        if why or isinstance(grid, str):
            done.append(Rounded(name, why=why or str(grid)))
            continue
        inputs, outputs = _watched(quantised, name, sample)[0], _watched(original, name, sample)[1]
        done.append(_round_layer(name, layer, grid, inputs, outputs, iterations, lr, seed))
    beside = "a function or a layer of several matrices reads it"
    return [*done, *(Rounded(path, why=beside) for path in quantized_parameters(quantised))]


@dataclass(frozen=True)
class _Grid:
    """The levels of a weight: whole numbers ``low .. high`` times ``scale``, each tensor shaped like the weight."""

    scale: Tensor
    low: Tensor
    high: Tensor
    held: Tensor  # weights that the scale is made of: they stay

    @classmethod
    def of(cls, layer: Any) -> _Grid | str:
        """That of a layer, or why it has none that rounding decides on."""
        quantizer, weight = layer.weight_quantizer, layer.weight.detach()
        found = layer.integer_weight()
        dims, axis = weight.dim(), found.axis
        scale = along(found.scale, dims, axis).expand_as(weight)
        zero = torch.zeros_like(found.scale) if found.zero_point is None else found.zero_point.to(found.scale)
        low = along(quantizer.qmin - zero, dims, axis).expand_as(weight)
        high = along(quantizer.qmax - zero, dims, axis).expand_as(weight)
        nearest = torch.maximum(torch.minimum((weight / scale).round(), high), low)
        if not torch.equal(nearest, found.centred().values.to(weight.dtype)):
            return "its levels are not those that rounding leads to"
        rest = [other for other in range(dims) if other != axis] if found.scale.numel() > 1 else list(range(dims))
        ends = (weight.amax(rest, keepdim=True), weight.amin(rest, keepdim=True), weight.abs().amax(rest, keepdim=True))
        held = (weight == ends[0]) | (weight == ends[1]) | (weight.abs() == ends[2])
        return cls(scale, low, high, held)

    def down(self, weight: Tensor) -> Tensor:
        """The level below each weight."""
        return torch.maximum(torch.minimum((weight / self.scale).floor(), self.high), self.low)

    def values(self, levels: Tensor) -> Tensor:
        """The weight that whole or soft levels stand for."""
        return torch.maximum(torch.minimum(levels, self.high), self.low) * self.scale


def _round_layer(
    name: str,
    layer: Any,
    grid: _Grid,
    inputs: Tensor,
    outputs: Tensor,
    iterations: int,
    lr: float,
    seed: int,
) -> Rounded:
    weight = layer.weight.detach().clone()
    nearest = grid.values((weight / grid.scale).round())
    down = grid.down(weight)
    ups = _learn(layer, grid, weight, down, (inputs, outputs), iterations, lr, seed)
    learned = grid.values(down + ups)
    learned = torch.where(grid.held, nearest, learned)
    errors = [_error(layer, inputs, outputs, each) for each in (nearest, learned)]
    moved = int((learned != nearest).sum())
    if errors[1] >= errors[0] or not moved:
        return Rounded(name, errors[0], errors[0])
    before = layer.integer_weight()
    # between the ends of what was there, which a product of scale and level may pass by a bit
    latent = torch.where(grid.held, weight, learned.clamp(weight.min(), weight.max()))
    with torch.no_grad():
        layer.weight.copy_(latent)
    after = layer.integer_weight()
    if not torch.equal(after.scale, before.scale) or not torch.equal(after.dequantize(), learned):
        with torch.no_grad():
            layer.weight.copy_(weight)
        return Rounded(name, errors[0], errors[0], why="other weights would move its grid")
    return Rounded(name, errors[0], errors[1], moved)


def _learn(
    layer: Any,
    grid: _Grid,
    weight: Tensor,
    down: Tensor,
    sample: tuple[Tensor, Tensor],
    iterations: int,
    lr: float,
    seed: int,
) -> Tensor:
    """0 or 1 for every weight: whether it goes up."""
    rest = (weight / grid.scale - down).clamp(0, 1)
    soft = ((rest - _GAMMA) / (_ZETA - _GAMMA)).clamp(1e-4, 1 - 1e-4).logit().requires_grad_(True)
    optimiser = torch.optim.Adam([soft], lr)
    chosen = torch.Generator().manual_seed(seed)
    inputs, outputs = sample
    warm = int(iterations * _WARM_UP)
    for step in range(iterations):
        index = torch.randint(len(inputs), (min(_BATCH, len(inputs)),), generator=chosen)
        up = _rectified(soft)
        made = _compute(layer, inputs[index], grid.values(down + up))
        apart = (made - outputs[index]).square()
        # summed over channels, a mean over the sample, as the paper weighs the two terms
        loss = apart.sum() * (apart.shape[1] / apart.numel())
        if step >= warm:
            share = (step - warm) / max(iterations - warm, 1)
            beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * (1 - share)
            loss = loss + _REGULARISATION * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return (_rectified(soft.detach()) >= 0.5).to(weight.dtype)


def _rectified(soft: Tensor) -> Tensor:
    return (torch.sigmoid(soft) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


@torch.no_grad()
def _error(layer: Any, inputs: Tensor, outputs: Tensor, weight: Tensor) -> float:
    """Mean squared error of the layer's output with this weight."""
    total = 0.0
    for start in range(0, len(inputs), _BATCH):
        apart = _compute(layer, inputs[start : start + _BATCH], weight) - outputs[start : start + _BATCH]
        total += float(apart.double().square().sum())
    return total / outputs.numel()


def _computable(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))


def _compute(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The layer with another weight."""
    if isinstance(layer, QuantLinear):
        return F.linear(x, weight, layer.bias)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return conv_transpose(layer, x, weight, None)
    output: Tensor = layer._conv_forward(x, weight, layer.bias)
    return output


def _watched(model: nn.Module, name: str, sample: list[Batch]) -> tuple[Tensor, Tensor]:
    """What the layer multiplies, and what it makes."""
    inputs, outputs = [], []
    layer = model.get_submodule(name)

    def keep(x: Tensor, y: Tensor) -> None:
        inputs.append(layer.quantized_input(x) if isinstance(layer, QuantizedLayer) else x)
        outputs.append(y)

    watch_layer(model, name, sample, keep)
    with torch.inference_mode(False):  # clones, which may be learned on
        return torch.cat(inputs).clone(), torch.cat(outputs).clone()
