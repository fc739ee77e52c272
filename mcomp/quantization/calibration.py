"""Finding the ranges of activation quantisers from data, and freezing them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.errors import StageError
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.inputs import Batch, check_batches, check_model, fitting, inputs_of
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.observers import build_observer, check_observer
from mcomp.quantization.parameter_values import quantized_parameters
from mcomp.quantization.quantizers.base import Quantizer


def calibrate(model: nn.Module, batches: Iterable[Batch], method: str | None = None) -> list[str]:
    """Set the range of every activation quantiser that has none yet, and touch no other range.

    So is that of a weight, where its quantiser holds one and the layer was written by hand.

    The batches run once, in eval mode, without gradients; quantisers being calibrated let the float
    values through, so that one tensor's rounding does not colour the next one's range.

    Args:
        model: a model with activation quantisers; changed in place.
        batches: inputs ``[N, ...]``, or ``(inputs, labels)`` pairs of which the first is used; of a network that is
            called with several tensors tuples of these, or ``((left, right), labels)``.
        method: ``minmax``, ``moving_average``, ``percentile``, ``mse`` or ``entropy``, for all quantisers, see
            :func:`mcomp.quantization.ranges.clip_range`; None leaves it to each quantiser's own observer (``mse``
            where it has none).

    Returns:
        Names of the quantisers that were set, in graph order.

    Raises:
        StageError: there was no batch, a tensor held inf or nan, or a quantiser was never reached; then no quantiser
            keeps a range that it did not have before. MC422, the model was never quantised.
        UsageError: the method is not offered; MC429, the batches are none, or the model does not take one.
    """
    refuse_float(model, "calibrate")
    check_batches(batches)
    if method is not None:
        check_observer(method)  # before the data runs
    without = [module for module in model.modules() if isinstance(module, Quantizer) and not module.ready]
    before = [{name: held.clone() for name, held in module.state_dict().items()} for module in without]
    try:
        return _calibrate(model, batches, method)
    except BaseException:
        for module, state in zip(without, before, strict=True):
            module.load_state_dict(state)
        raise


def _calibrate(model: nn.Module, batches: Iterable[Batch], method: str | None) -> list[str]:
    _initialise_weights(model)
    waiting = {name: module for name, module in quantizers(model).items() if not module.ready}
    if not waiting:
        return []
    observers = {}
    for name, module in waiting.items():
        axis = getattr(module, "channel_axis", None)
        observers[name] = build_observer(method or module.calibration or "mse", axis)
        module.name = module.name or name
        module.watch(observers[name])
    try:
        run_batches(model, batches)
    finally:
        for module in waiting.values():
            module.watch(None)
    for name, module in waiting.items():
        if observers[name].empty:
            raise StageError(
                f"activation quantiser `{name}` saw no data while calibrating",
                code="MC423",
                why="no calibration batch was given, or this branch never ran",
                hint="pass at least one batch that reaches every branch",
            )
        module.fit(observers[name])
    return list(waiting)


def freeze(model: nn.Module) -> nn.Module:
    """Make every range a constant of the model, learned ones included: from here on only weights train.

    A weight quantiser that took its range from each weight holds that of the weight at hand from now on; the gradient
    of what leaves it is 0. Scales that are means of a weight (binary, ternary, XNOR) and the published DoReFa formula,
    whose levels are constants, have no range and go on as they were, as does a weight that is folded with its batch
    norm while both train. All of this is part of the state and is saved with the model; a state without it, once
    loaded, lets ranges move again.

    Returns:
        ``model``.

    Raises:
        StageError: a quantiser has no range to freeze; MC422, the model was never quantised.
    """
    refuse_float(model, "freeze")
    for name, module in quantizers(model).items():
        if not module.ready:
            raise StageError(
                f"activation quantiser `{name}` has no range to freeze",
                code="MC423",
                hint="run `mcomp.quantization.calibrate(model, batches)` first",
            )
        module.freeze()
    for reader, weight in _weights(model):
        reader.weight_quantizer.freeze(weight.detach().movedim(reader.channel_axis, 0))
    for quantizer in weight_quantizers(model).values():
        if not quantizer.constant:
            quantizer.freeze()
    return model


def _weights(model: nn.Module) -> list[tuple[QuantizedWeight, Tensor]]:
    layers = [(module, module.weight) for module in model.modules() if isinstance(module, QuantizedLayer)]
    return [*layers, *quantized_parameters(model).values()]


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """The activation quantisers of a model by name: all that are not the weight quantiser of a layer."""
    of_weights = {id(module) for module in weight_quantizers(model).values()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and id(module) not in of_weights
    }


def weight_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """The weight quantisers of a model by the name of their layer."""
    found = {name: getattr(module, "weight_quantizer", None) for name, module in model.named_modules()}
    return {name: quantizer for name, quantizer in found.items() if isinstance(quantizer, Quantizer)}


def refuse_float(model: nn.Module, what: str) -> None:
    """Refuse a model with no quantiser in it, unless that is what it was quantised to: 32 bits throughout.

    Raises:
        StageError: MC422.
    """
    check_model(model)
    known = any(isinstance(module, (Quantizer, QuantizedWeight, FoldedLayer)) for module in model.modules())
    if known or any(entry["op"] == "quantize" for entry in surgery.provenance(model).log):
        return
    raise StageError(
        f"`{type(model).__name__}` holds nothing quantised to {what}",
        code="MC422",
        why="it has no quantiser of a weight or of a tensor; layers of `torch.nn` stay float until they are converted",
        hint="quantise it first, `mcomp.quantization.quantize(model, example_inputs)`, and take what that returns",
    )


def _initialise_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and not module.weight_quantizer.ready:
            module.initialise(module.weight)
    if all(quantizer.ready for quantizer in weight_quantizers(model).values()):
        return
    for read, weight in quantized_parameters(model).values():
        if not read.weight_quantizer.ready:
            read.initialise(weight)


def run_batches(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Show every batch to ``model``, in eval mode and without gradients, on the device where it is."""
    training = model.training
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    model.eval()
    try:
        with torch.inference_mode():
            for place, batch in enumerate(batches, start=1):
                inputs = [each.to(device) for each in inputs_of(batch, model)]
                with fitting(model, f"batch {place}", inputs):
                    model(*inputs)
    finally:
        model.train(training)
