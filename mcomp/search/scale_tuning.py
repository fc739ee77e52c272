"""Brief training of what is cheap to move: quantiser scales and batch norms, weights held."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from mcomp.quantization import Quantizer

_LR = 2e-3


def tune_scales(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], steps: int) -> int:
    """Train scales and the factors and offsets of batch norms by Adam, in place; the rate falls to 0 on a line.

    Args:
        model: quantised, or pruned only; left in training mode.
        batches: images and labels (int64), gone round as often as need be.
        steps: at most.

    Returns:
        The number of parameters that were trained; 0 where there are none, and then nothing is done.
    """
    owners = [module for module in model.modules() if isinstance(module, Quantizer | _NormBase)]
    mine = {id(each): each for owner in owners for each in owner.parameters(recurse=False)}
    if not mine:
        return 0
    before = [(each, each.requires_grad) for each in model.parameters()]
    for each, _ in before:
        each.requires_grad_(id(each) in mine)
    model.train()
    # a scale is to move by a part of itself, and batch norm factors are about 1
    groups = [
        {"params": [each], "lr": _LR * float(each.detach().abs().mean().clamp(min=1e-4))} for each in mine.values()
    ]
    optimizer = torch.optim.Adam(groups)
    rates = [group["lr"] for group in optimizer.param_groups]
    given = list(itertools.islice(batches, steps))
    for step in range(steps if given else 0):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        images, labels = given[step % len(given)]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(functional.cross_entropy(model(images), labels))
        optimizer.step()
    for each, wanted in before:
        each.requires_grad_(wanted)
        each.grad = None
    return len(mine)
