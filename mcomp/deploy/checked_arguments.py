"""What a caller hands over, checked before anything is written: the network, its inputs, the place of the file."""

from __future__ import annotations

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
        UsageError: MC427, the model is no module; MC429, it does not run on the inputs, or they are no tensors; MC445,
            the file has no folder, or is one.
    """
    from mcomp.quantization.inputs import check_model, example_tuple, fitting

    check_model(model)
    refuse_counting(model)
    inputs = example_tuple(example_inputs)
    if path.is_dir() or not path.parent.is_dir():
        fault = f"`{path}` is a folder" if path.is_dir() else f"there is no folder `{path.parent}`"
        raise UsageError(fault, code="MC445", hint="give the path of a file in a folder that exists")
    with in_eval_mode(model), torch.no_grad(), fitting(model, "the example inputs", inputs):
        model(*inputs)
    return inputs


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
