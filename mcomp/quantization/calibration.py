"""Finding the ranges of activation quantisers from data, and freezing them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.observers import FloatHistogram
from mcomp.quantization.quantizers.activation import ActivationQuantizer
from mcomp.quantization.ranges import Method, clip_range

Batch = Tensor | tuple[Tensor, ...] | list[Tensor]


def calibrate(model: nn.Module, batches: Iterable[Batch], method: Method = "mse") -> list[str]:
    """Set the range of every activation quantiser that has none yet, and touch nothing else.

    The batches run once, in eval mode, without gradients; quantisers being calibrated let the float
    values through, so that one tensor's rounding does not colour the next one's range.

    Args:
        model: a model with activation quantisers; changed in place.
        batches: inputs ``[N, ...]``, or ``(inputs, labels)`` pairs of which the first is used.
        method: ``minmax``, ``percentile``, ``mse`` or ``entropy``; see :func:`mcomp.quantization.ranges.clip_range`.

    Returns:
        Names of the quantisers that were set, in graph order.

    Raises:
        StageError: there was no batch, a tensor held inf or nan, or a quantiser was never reached.
        UsageError: the method is not offered.
    """
    waiting = {name: module for name, module in quantizers(model).items() if not module.ready}
    if not waiting:
        return []
    histograms = {name: FloatHistogram() for name in waiting}
    clip_range(FloatHistogram(), method, 127, True)  # a wrong method is refused before the data runs
    training = model.training
    for name, module in waiting.items():
        module.name, module.observer = module.name or name, histograms[name]
    try:
        _run(model.eval(), batches)
    finally:
        for module in waiting.values():
            module.observer = None
        model.train(training)
    for name, module in waiting.items():
        if histograms[name].empty:
            raise StageError(
                f"activation quantiser `{name}` saw no data while calibrating",
                code="MC423",
                why="no calibration batch was given, or this branch never ran",
                hint="pass at least one batch that reaches every branch",
            )
        module.set_clip(clip_range(histograms[name], method, module.qmax, module.signed))
    return list(waiting)


def freeze(model: nn.Module) -> nn.Module:
    """Make every range a constant of the model: from here on only weights train. Returns ``model``.

    Raises:
        StageError: a quantiser has no range to freeze.
    """
    for name, module in quantizers(model).items():
        if not module.ready:
            raise StageError(
                f"activation quantiser `{name}` has no range to freeze",
                code="MC423",
                hint="run `mcomp.quantization.calibrate(model, batches)` first",
            )
        module.scale.requires_grad_(False)
    return model


def quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The activation quantisers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


def _run(model: nn.Module, batches: Iterable[Batch]) -> None:
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    with torch.inference_mode():
        for batch in batches:
            inputs = batch if isinstance(batch, Tensor) else batch[0]
            model(inputs.to(device))
