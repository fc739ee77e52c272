"""What a caller hands over, checked before anything is written: the network, its inputs, the place of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.metrics.accuracy import in_eval_mode


def check_arguments(model: Any, example_inputs: Any, path: Path) -> tuple[Tensor, ...]:
    """Run the network once on its example inputs, and see whether the file can be put where it is to be.

    Returns:
        The inputs as a tuple.

    Raises:
        UsageError: MC427, the model is no module; MC429, it does not run on the inputs, they are no tensors or hold
            nan or inf; MC445, the file has no folder, or is one.
    """
    from mcomp.quantization.inputs import fitting

    inputs = checked_inputs(model, example_inputs)
    if path.is_dir() or not path.parent.is_dir():
        fault = f"`{path}` is a folder" if path.is_dir() else f"there is no folder `{path.parent}`"
        raise UsageError(fault, code="MC445", hint="give the path of a file in a folder that exists")
    with in_eval_mode(model), torch.no_grad(), fitting(model, "the example inputs", inputs):
        model(*inputs)
    return inputs


def checked_inputs(model: Any, example_inputs: Any) -> tuple[Tensor, ...]:
    """The example inputs as a tuple, of a model that can be written to a file.

    Raises:
        UsageError: MC427, the model is no module, or counts bits; MC429, the inputs are no tensors, or hold nan or inf.
    """
    from mcomp.quantization.inputs import check_model, example_tuple

    check_model(model)
    refuse_counting(model)
    inputs = example_tuple(example_inputs)
    for place, tensor in enumerate(inputs):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise UsageError(
                f"{count} of {tensor.numel()} values of example input {place} are nan or inf",
                code="MC429",
                why="the file's answers to them are held against the model's, and nothing equals nan",
                hint="pass a batch of what the network will see, e.g. `torch.randn(2, 3, 32, 32)`",
            )
    return inputs


def checked_path(given: Any, what: str = "the file") -> Path:
    """``given`` as a path.

    Raises:
        UsageError: MC445, it is neither text nor a path.
    """
    if isinstance(given, (str, os.PathLike)) and isinstance(os.fspath(given), str):
        return Path(given)
    raise UsageError(
        f"the path of {what} is {_told(given)}", code="MC445", hint='pass text or a `pathlib.Path`, e.g. "net.onnx"'
    )


def check_metadata(given: Any, *, text_only: bool = False) -> None:
    """Refuse what a file cannot carry as names and values.

    Args:
        given: what was passed; None for nothing.
        text_only: whether values must be text too.

    Raises:
        UsageError: MC427, it is no mapping, or a name (or value) is no text.
    """
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"`metadata` is {_told(given)}", code="MC427", hint='pass a dict, e.g. `{"author": "me"}`')
    for name, value in (given or {}).items():
        if text_only and not isinstance(value, str):
            raise UsageError(f"`metadata` has {_told(value)} at `{name}`", code="MC427", hint="write it as text")
        if not isinstance(name, str):
            raise UsageError(
                f"`metadata` has the name {name!r}, {_told(name)}", code="MC427", hint=f'write it as text: "{name}"'
            )


def refuse_counting(model: nn.Module) -> None:
    """Refuse a model whose layers count bits: they are calls of a library of its own, which no file can hold.

    Raises:
        UsageError: MC427.
    """
    found = next((name for name, module in model.named_modules() if getattr(module, "counts_bits", False)), None)
    if found is not None:
        raise UsageError(
            f"`{found}` counts bits: it runs here and in no file",
            code="MC427",
            hint="hand over the model that `accelerate` was given",
        )


def _told(given: Any) -> str:
    return "None" if given is None else f"a `{type(given).__name__}`"
