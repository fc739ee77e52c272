"""The network that a person hands to a pruning from Python, and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcomp.errors import StageError, UsageError
from mcomp.pruning.targets import shown

_LONGEST = 200  # characters of another library's message


def check_network(model: object, example_inputs: object) -> None:
    """See that there is a network to call, and a tuple of what it is called with.

    Raises:
        UsageError: MC417, one of them is something else.
    """
    if not isinstance(model, nn.Module):
        raise _no_network(model)
    if not isinstance(example_inputs, tuple | list):
        hint = "pass a tuple of what the model is called with: `(images,)` for `model(images)`"
        raise UsageError(
            f"`example_inputs` is {_kind(example_inputs)}; it must be a tuple of tensors", code="MC417", hint=hint
        )


def fails_on_inputs(cause: BaseException, module: str, inputs: tuple[Any, ...]) -> StageError:
    """The refusal of a model that cannot be run on its example inputs.

    Args:
        cause: what it raised.
        module: where; empty in the model's own ``forward``.
        inputs: that it was called with.
    """
    where = f" in `{module}`" if module else ""
    text = str(cause).strip().partition("\n")[0]
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    odd = _odd_inputs(inputs)
    return StageError(
        f"the model fails on its example inputs{where}: {type(cause).__name__}: {text}",
        code="MC410",
        why=f"of the example inputs, {odd}" if odd else "",
        hint="give tensors, e.g. `(torch.from_numpy(array),)`; a model that wants more is wrapped in a module whose "
        "`forward` takes tensors"
        if odd
        else "example inputs must be a batch that `model(*example_inputs)` accepts",
    )


def _no_network(model: object) -> UsageError:
    if isinstance(model, type):
        found, hint = f"the class `{model.__name__}`", f"pass an instance, e.g. `{model.__name__}()`"
    elif isinstance(model, Mapping) and any(isinstance(value, Tensor) for value in model.values()):
        found = f"a {type(model).__name__} of tensors, a state dict"
        hint = "make the network, then `network.load_state_dict(state)`, and pass the network"
    else:
        found, hint = _kind(model), "pass an instance of your network"
    return UsageError(f"`model` is {found}; it must be a torch.nn.Module", code="MC417", hint=hint)


def _odd_inputs(inputs: tuple[Any, ...]) -> str:
    """Which inputs are, or hold, no tensors, in words; empty where all are tensors or plain values."""
    odd = [
        f"number {place} is {_kind(given)}"
        for place, given in enumerate(inputs, 1)
        if isinstance(given, Mapping) or any(type(leaf).__module__ == "numpy" for leaf in tree_leaves(given))
    ]
    return " and ".join(odd)


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return "one tensor"
    if type(value).__module__ == "numpy" or isinstance(value, Mapping):
        return f"a {'numpy ' if type(value).__module__ == 'numpy' else ''}{type(value).__name__}"
    return shown(value)
