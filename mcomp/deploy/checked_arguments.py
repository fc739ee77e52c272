"""What a caller hands over, checked before anything is written: the network, its inputs, the place of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mcomp.errors import StageError, UsageError
from mcomp.metrics.accuracy import in_eval_mode

if TYPE_CHECKING:
    from mcomp.quantization.inputs import Batch

#: What torch raises of a tensor of the wrong shape or type.
_DOES_NOT_FIT = (RuntimeError, TypeError, ValueError, IndexError)


def check_arguments(model: Any, example_inputs: Any, path: Path) -> None:
    """Run the network once on its example inputs, and see whether the file can be put where it is to be.

    Raises:
        UsageError: MC444, the inputs are no tuple of tensors; MC445, the file has no folder, or is one.
        StageError: MC444, the network does not run on them.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"a network was expected, not a `{type(model).__name__}`", code="MC444")
    if not isinstance(example_inputs, tuple) or not all(isinstance(each, Tensor) for each in example_inputs):
        raise UsageError(
            f"`example_inputs` is a `{type(example_inputs).__name__}`, not a tuple of tensors",
            code="MC444",
            hint="give `(images,)`, with the comma",
        )
    if path.is_dir() or not path.parent.is_dir():
        fault = f"`{path}` is a folder" if path.is_dir() else f"there is no folder `{path.parent}`"
        raise UsageError(fault, code="MC445", hint="give the path of a file in a folder that exists")
    try:
        with in_eval_mode(model), torch.no_grad():
            model(*example_inputs)
    except _DOES_NOT_FIT as error:
        raise _refusal("the example inputs", example_inputs, error) from error


def calibrate_checked(model: nn.Module, batches: Iterable[Batch], method: str | None) -> list[str]:
    """:func:`mcomp.quantization.calibrate`, with a refusal that names the batch on which the network does not run.

    Raises:
        StageError: MC444.
    """
    from mcomp.quantization import calibrate

    last: list[Batch] = []

    def watched() -> Iterator[Batch]:
        for batch in batches:
            last.append(batch)
            yield batch
            last.pop()

    try:
        return calibrate(model, watched(), method=method)
    except _DOES_NOT_FIT as error:
        if not last:
            raise
        first = last[0] if isinstance(last[0], Tensor) else last[0][0]
        raise _refusal("a calibration batch", (first,), error) from error


def _refusal(what: str, inputs: tuple[Tensor, ...], error: Exception) -> StageError:
    shapes = ", ".join(f"{str(each.dtype).removeprefix('torch.')} {list(each.shape)}" for each in inputs)
    return StageError(
        f"the network does not run on {what}: {shapes}",
        code="MC444",
        why=(str(error).strip().splitlines() or [type(error).__name__])[0],
        hint="give it what it was trained on: the same number of channels, the same size, the same type",
    )
