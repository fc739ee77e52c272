"""What the processes of one training run saw together, so that all of them hold the same ranges."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def several_ranks() -> bool:
    """Whether this process trains together with others; every quantiser then asks all of them in the same order."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def joint_extremes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest ``low`` and the largest ``high`` of all ranks, in their shape; as they are where there is one rank.

    NaN becomes inf, which every rank then refuses: a rank that stopped alone would leave the others waiting.
    """
    if not several_ranks():
        return low, high
    ends = torch.stack([-low, high]).nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
    return -ends[0], ends[1]


def joint_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` over all ranks, in their shape; as they are where there is one rank."""
    if several_ranks():
        values = values.clone()
        distributed.all_reduce(values)
    return values
