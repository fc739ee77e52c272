"""Optimisers, set up the way the loop drives them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from mcomp.errors import StageError
from mcomp.training.learned_scales import bound_steps, learned_scales
from mcomp.training.settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """The optimiser over the model's trainable parameters; the loop sets its learning rate at every step.

    Weight decay spares vectors and scalars (normalisation, biases, quantiser scales) unless ``decay_norm``. No step
    takes a learned scale through zero, see :mod:`mcomp.training.learned_scales`.

    Raises:
        StageError: nothing is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise StageError(
            "the model has no trainable parameter",
            code="MC404",
            why="every parameter is frozen (`requires_grad=False`), or its weights are folded into integers",
            hint="train before folding, or unfreeze some layers",
        )
    decayed = [parameter for parameter in trainable if settings.decay_norm or parameter.ndim > 1]
    spared = [parameter for parameter in trainable if not (settings.decay_norm or parameter.ndim > 1)]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, settings.weight_decay), (spared, 0.0))
        if parameters
    ]
    fused = all(parameter.is_floating_point() for parameter in trainable)  # one call for all tensors, CPU included
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        optimizer: Optimizer = SGD(groups, settings.lr, settings.momentum, nesterov=nesterov, fused=fused)
        if settings.momentum > 0:
            # from the start, so that a parameter whose first gradient comes late does not meet a missing buffer
            for parameter in trainable:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    else:
        kind = Adam if settings.optimizer == "adam" else AdamW
        optimizer = kind(groups, settings.lr, (settings.momentum, 0.999), fused=fused)
    bound_steps(optimizer, learned_scales(model))
    return optimizer


def match_layout(optimizer: Optimizer) -> None:
    """Give every state tensor the memory layout of its parameter, which the fused kernels take for granted.

    A snapshot may come back with its tensors contiguous where the parameter is channels-last.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)
