"""Models made without values: their shapes are there at once, however large they are."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Weightless(TorchFunctionMode):
    """Within it, memory that is asked for without values is on the meta device: that of every large weight.

    Unlike under ``torch.device("meta")`` a constructor may still compute with tensors (RegNet takes its widths from
    them). What it made with values is small, and has to be moved to the meta device afterwards.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
