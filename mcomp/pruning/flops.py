"""What an op costs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

_CONVOLUTION = torch.ops.aten.convolution.default


def flops(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    """Twice the multiply-accumulates of an op, as ``torch.utils.flop_counter`` has them."""
    if func is _CONVOLUTION and not args[6]:
        _, columns, *kernel = args[1].shape
        return int(2 * math.prod(out.shape) * columns * math.prod(kernel))
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))
