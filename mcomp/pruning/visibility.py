"""What a comparison of two networks would have seen: a change behind a scale of 1e-6 moves no output."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcomp.pruning.channel_surgery import Cut

#: Forwards that are spent on readers of which gradients tell nothing.
_TRIALS = 8

#: A parameter with no larger element, times the root of its fan-in, scales what it meets to near nothing.
_TINY = 1e-2

#: The largest change of many outputs over their mean one, at the least.
_PEAK = 3

#: The floating-point outputs of a network.
Run = Callable[[nn.Module], list[Tensor]]


@dataclass(frozen=True)
class Sight:
    """Which readers of the pruned channels have a visible part in the outputs.

    Attributes:
        every: all of them.
        any: at least one.
        faint: some have a part that is too small; the other invisible ones have none at all.
    """

    every: bool
    any: bool
    faint: bool = False


def sight(pruned: nn.Module, readers: Sequence[Cut], run: Run, before: Sequence[Tensor], tolerance: float) -> Sight:
    """Tell whether a change of the kept channels in front of each reader moves an output by more than the tolerance.

    One backward pass tells it of all readers, to first order. Where that fails, as behind operations without a
    gradient, or says no of all of them, weights are doubled in turn.

    Args:
        pruned: the network; unchanged.
        readers: cuts of the weights that read pruned channels; those of which the outputs do not depend left out.
        run: with gradients, where they are enabled.
        before: its outputs.
        tolerance: share of each output's largest magnitude.
    """
    if not readers or not any(map(largest, before)):  # there is no weight to change, or a head begins with zeros
        return Sight(every=False, any=False)
    moves = [_PEAK * move for move in _first_order(pruned, readers, run, before)]
    seen = [not move <= tolerance for move in moves]  # NaN is looked into below
    doubtful = [place for place, move in enumerate(moves) if move != move or not any(seen)]
    for place in doubtful[:: len(doubtful) // _TRIALS + 1]:
        seen[place] = _moves(pruned, readers[place], run, before, tolerance)
    faint = any(0 < move <= tolerance for move in moves)
    return Sight(every=all(seen), any=any(seen), faint=faint)


def hides(model: nn.Module) -> bool:
    """Whether some branch is scaled to near nothing, or dead behind a batch norm; shifts hide nothing."""
    return any(_is_tiny(parameter) for name, parameter in model.named_parameters() if not name.endswith("bias")) or any(
        bool((norm.bias <= -2 * norm.weight.abs()).all())
        for norm in model.modules()
        if isinstance(norm, _BatchNorm) and norm.affine
    )


def _is_tiny(parameter: Tensor) -> bool:
    known = parameter.is_floating_point() and parameter.numel() > 0
    return known and largest(parameter) * _fan_in(parameter) ** 0.5 <= _TINY


def _fan_in(parameter: Tensor) -> int:
    return parameter[0].numel() if parameter.ndim > 1 else 1


def lively(model: nn.Module) -> nn.Module:
    """Let everything be seen, in place: no channel dead behind its ReLU on a small batch, no scale near zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if _is_tiny(parameter):
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(noise / _fan_in(parameter) ** 0.5)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm) and norm.affine:
                norm.bias.abs_().add_(norm.weight.abs())
    return model


def _first_order(pruned: nn.Module, readers: Sequence[Cut], run: Run, before: Sequence[Tensor]) -> list[float]:
    """By how much the columns of each reader, doubled or dropped by chance, move the outputs, scaled to 1; or NaN."""
    weights = [_weight(pruned, reader) for reader in readers]
    asked = [(weight, weight.requires_grad) for weight in weights]
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a person's code may know no gradients
            for weight in weights:
                weight.requires_grad_(True)
            value = _projection(run(pruned), before)
            found = torch.autograd.grad(value, weights, allow_unused=True)
    except Exception:  # a user's forward may raise anything once it is asked for gradients
        return [float("nan")] * len(weights)
    finally:
        for weight, needed in asked:
            weight.requires_grad_(needed)
    return [
        0.0 if gradient is None else _over_columns(weight.detach() * gradient, reader.axis)
        for weight, gradient, reader in zip(weights, found, readers, strict=True)
    ]


def _over_columns(product: Tensor, axis: int) -> float:
    others = [dim for dim in range(product.ndim) if dim != axis]
    return float((product.sum(others) if others else product).norm())


def _projection(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Along a direction of chance: its change is about the mean change of an output."""
    generator = torch.Generator().manual_seed(1)
    value = torch.zeros(())
    for output, known in zip(outputs, before, strict=True):
        size = largest(known)
        if size and output.requires_grad:
            direction = torch.randn(output.shape, generator=generator, dtype=output.dtype)
            scale = size * known.numel() ** 0.5
            value = value + (output * direction).masked_fill(~known.isfinite(), 0).sum() / scale
    return value


def _moves(pruned: nn.Module, reader: Cut, run: Run, before: Sequence[Tensor], tolerance: float) -> bool:
    """Double every other column of one reader, in place for the moment: not all, which a norm would undo."""
    weight = _weight(pruned, reader).data
    columns = weight.transpose(0, reader.axis)[::2]
    saved = columns.clone()
    columns.mul_(2)
    after = run(pruned)
    columns.copy_(saved)
    return any(
        largest(now - then) > tolerance * largest(then) for now, then in zip(after, before, strict=True) if then.numel()
    )


def largest(values: Tensor) -> float:
    """The largest finite magnitude."""
    return float(values.detach().abs().nan_to_num(0, 0, 0).max()) if values.numel() else 0.0


def _weight(model: nn.Module, reader: Cut) -> Tensor:
    path, _, attribute = reader.parameter.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), attribute)
    return weight
