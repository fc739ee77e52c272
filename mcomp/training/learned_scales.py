"""Quantiser scales that train, kept from one step's leap through zero.

A learned step size (Esser et al., arXiv:1902.08153) is a small positive number, the smaller the finer its grid: at 8
bits a gradient that suits 2 bits takes it below zero in a few steps. There all is clipped, and no gradient leads back.
The paper lowers the learning rate with the bits; here no step changes a scale by more than a twentieth of itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: Largest change of a scale in one step, as a share of it.
MOST = 0.05


def learned_scales(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that a module names in its attribute ``learned_scales``."""
    found = [getattr(module, name) for module in model.modules() for name in getattr(module, "learned_scales", ())]
    return [parameter for parameter in dict.fromkeys(found) if parameter.requires_grad]


def bound_steps(optimizer: Optimizer, scales: list[nn.Parameter]) -> None:
    """Let no step of ``optimizer`` change one of ``scales`` by more than a twentieth of itself. It keeps no state."""
    if not scales:
        return
    held: list[tuple[Tensor, ...]] = []

    def before(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            sizes = torch._foreach_abs(scales)  # type: ignore[arg-type]
            steps = torch._foreach_mul(sizes, MOST)
            held[:] = [torch._foreach_sub(scales, steps), torch._foreach_add(scales, steps)]  # type: ignore[arg-type]

    def after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            torch._foreach_maximum_(scales, held[0])  # type: ignore[arg-type]
            torch._foreach_minimum_(scales, held[1])  # type: ignore[arg-type]

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
