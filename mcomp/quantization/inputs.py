"""What a network is shown, example inputs and batches, and a refusal that says what about them does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import UsageError

Batch = Tensor | tuple[Any, ...] | list[Any]


def example_tuple(given: Any) -> tuple[Tensor, ...]:
    """Example inputs as the tuple of tensors that a network is called with; one tensor is a tuple of one.

    Raises:
        UsageError: MC429, they are something else.
    """
    inputs = (given,) if isinstance(given, Tensor) else given
    if isinstance(inputs, (tuple, list)) and inputs and all(isinstance(each, Tensor) for each in inputs):
        return tuple(inputs)
    held = f"a `{type(given).__name__}`" if not isinstance(given, (tuple, list)) else described(given)
    raise UsageError(
        f"the example inputs are {held}",
        code="MC429",
        why="the network is run on them once: they are the tensors that it is called with",
        hint="pass one batch, e.g. `(images,)`",
    )


def check_model(model: Any) -> None:
    """Refuse what is no module.

    Raises:
        UsageError: MC427.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a `{type(model).__name__}`", code="MC427", hint="pass a `torch.nn.Module`")


def check_batches(batches: Any) -> None:
    """Refuse what is no series of batches: one tensor, above all, which would be taken image by image.

    Raises:
        UsageError: MC429.
    """
    if isinstance(batches, Tensor):
        raise UsageError(
            f"the batches are one tensor of shape {list(batches.shape)}",
            code="MC429",
            why="taken one by one, its entries are samples and not batches",
            hint="pass a list of one, `[tensor]`, or a data loader",
        )
    if isinstance(batches, (str, bytes, Mapping)) or not isinstance(batches, Iterable):
        raise UsageError(
            f"the batches are a `{type(batches).__name__}`",
            code="MC429",
            hint="pass tensors, or pairs of inputs and labels, in a list or a data loader",
        )


def inputs_of(batch: Any, model: nn.Module) -> tuple[Tensor, ...]:
    """The inputs in a batch: itself; or what a tuple begins with, labels behind it.

    A network of several inputs takes as many tensors as it requires; ``((a, b), labels)`` says them itself.

    Args:
        batch: one tensor, or a tuple.
        model: what they are for.

    Raises:
        UsageError: MC429, it holds none.
    """
    return split_batch(batch, model)[0]


def split_batch(batch: Any, model: nn.Module) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """The inputs in a batch, see :func:`inputs_of`, and what stands behind them, labels first."""
    if isinstance(batch, Tensor):
        return (batch,), ()
    if isinstance(batch, (tuple, list)) and batch:
        nested = isinstance(batch[0], (tuple, list))
        count = 1 if nested else max(1, min(_required_inputs(model), len(batch)))
        inputs = tuple(batch[0]) if nested else tuple(batch[:count])
        if inputs and all(isinstance(each, Tensor) for each in inputs):
            return inputs, tuple(batch[count:])
    held = described(batch) if isinstance(batch, (tuple, list)) else f"a `{type(batch).__name__}`"
    raise UsageError(
        f"a batch is {held}",
        code="MC429",
        why="a batch is a tensor of inputs, or a tuple that begins with one",
        hint="pass e.g. `[images]` or `[(images, labels)]`, of several inputs `[((left, right), labels)]`",
    )


def _required_inputs(model: nn.Module) -> int:
    """How many arguments the network cannot be called without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(model.forward).parameters.values()
    return sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in taken)


@contextmanager
def fitting(model: nn.Module, what: str, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Tell which inputs a network broke off at, in place of an error from somewhere inside of it.

    Raises:
        UsageError: MC429, with the inputs' shapes and the reason; errors of mcomp's own and of the machine pass.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"`{type(model).__name__}` does not take {what}, {described(inputs)}",
            code="MC429",
            why=f"{type(error).__name__}: {reason}",
            hint="pass what the network is called with, e.g. images of one size as [count, channels, height, width]",
        ) from error


def described(inputs: Sequence[Any]) -> str:
    """What stands in a tuple: shapes of tensors, and else types."""
    parts = [
        f"a tensor {list(each.shape)}" if isinstance(each, Tensor) else f"a `{type(each).__name__}`" for each in inputs
    ]
    if not parts:
        return "an empty tuple"
    return parts[0] if len(parts) == 1 else f"a tuple of {', '.join(parts)}"
