"""A training run frozen between two steps: enough to go on with the same bits.

Holds only tensors, numbers, strings, lists, dicts and None, so it loads with ``weights_only=True``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mcomp.errors import StageError
from mcomp.training.optimizers import match_layout

FORMAT = 1
Snapshot = dict[str, Any]


def model_tensors(model: nn.Module) -> dict[str, Any]:
    """The state dict on the CPU, with the buffers that a state dict leaves out; what lies there already is shared."""
    state = dict(model.state_dict())
    state.update((name, buffer) for name, buffer in model.named_buffers() if name not in state)
    return {name: _plain(value) for name, value in state.items()}


def load_model_tensors(model: nn.Module, state: dict[str, Any]) -> None:
    """Put tensors taken by :func:`model_tensors` back.

    Raises:
        StageError: they belong to another network.
    """
    known = set(model.state_dict())
    try:
        model.load_state_dict({name: value for name, value in state.items() if name in known})
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name not in known:
                    buffer.copy_(state[name])
    except (RuntimeError, KeyError) as error:
        raise StageError(
            "the training snapshot belongs to another network",
            code="MC405",
            why=str(error).strip().splitlines()[0],
            hint="run into another store with `--store <folder>`, or delete this one's folder `work`, and run again",
        ) from error


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state dict on the CPU; what lies there already is shared."""
    plain = _plain(optimizer.state_dict())
    assert isinstance(plain, dict)
    return plain


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Put a state taken by :func:`optimizer_state` back, in the layout that the parameters have now."""
    optimizer.load_state_dict(state)
    match_layout(optimizer)


def _plain(value: Any) -> Any:
    """Nested containers with their tensors on the CPU; tuples (Adam's betas) become lists.

    A snapshot is written before the next step, so a tensor on the CPU needs no copy, unless it is a window on
    something larger, which would be written whole.
    """
    if isinstance(value, Tensor):
        home = value.detach().cpu()
        window = home.layout == torch.strided and home.untyped_storage().nbytes() > home.numel() * home.element_size()
        return home.clone() if window else home
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
