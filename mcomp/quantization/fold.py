"""Fold batch norms into the layer beside them, in float or into the scales of integer weights.

The ordinary fold: ``W' = W * gamma / sigma``, ``b' = beta + (b - mean) * gamma / sigma``, ``sigma = sqrt(var + eps)``
(Jacob et al., arXiv:1712.05877). Pairs are found by dataflow, never by registration order.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.config import OFF
from mcomp.quantization.fold_arithmetic import fold_behind, fold_in_front, materialise
from mcomp.quantization.fold_pairs import Fold, find_folds
from mcomp.quantization.folded import folded_like
from mcomp.quantization.folding_norms import refuse_replaced
from mcomp.quantization.inputs import check_model, example_tuple, fitting
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.modules import relative_error, replace_module
from mcomp.quantization.tracing import trace


@dataclass
class FoldResult:
    """A folded copy, and the proof that nothing changed.

    Attributes:
        model: the folded copy.
        count: batch norms folded.
        error: ``max|fused - unfused| / max|unfused|``; of the model's output for a float model. In a quantised
            model a rounding error of 1e-7 may move an activation to the next level, which is no fault of the fold:
            there it is the largest error of any folded layer, fed with the unfused model's own tensors.
        worst_layer: the layer with the largest error of its own; empty when nothing was folded.
        sign_flips: output channels whose integers changed sign, because their gamma is negative.
        output_error: the error of the model's output, whatever the kind of model.
        rescaled: output channels whose folded scale was below 2**-23 and whose integers were rounded to that scale.
        left: batch norms that stay, and why.
    """

    model: nn.Module
    count: int
    error: float
    worst_layer: str
    sign_flips: int = 0
    output_error: float = 0.0
    rescaled: int = 0
    left: dict[str, str] = field(default_factory=dict)


def fold_batch_norms(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> FoldResult:
    """Fold every batch norm of a copy of ``model`` and compare the copy with the original.

    In a quantised model all quantised weights become integers with one scale per output channel; the
    fold goes into the scale, so that the integers change at most in sign. A channel with gamma 0 becomes
    integer 0 with scale 1 and its constant in the bias.

    Args:
        model: float or quantised, with its ranges known; not changed.
        example_inputs: one batch that the model accepts, a tuple or one tensor.

    Raises:
        StageError: the model cannot be traced, has a range that is not known, or holds inf or nan; MC420, a batch norm
            took the place of one that a weight was trained as folded with.
        UsageError: MC429, the model does not take the example inputs.
    """
    check_model(model)
    example_inputs = example_tuple(example_inputs)
    refuse_replaced(model)
    fused = copy.deepcopy(model)
    traced = trace(fused)
    probe = _Probe(model, example_inputs)
    folds, left = find_folds(traced, fused, probe.dims)
    count = flips = rescaled = 0
    integer = False
    for fold in folds:
        layer = fused.get_submodule(fold.layer)
        behind = _batch_norm(fused, fold.behind)
        front = _batch_norm(fused, fold.front)
        if _becomes_integer(layer):
            integer = True
            made, flipped, coarse = materialise(layer, behind, fold.layer)
            replace_module(fused, fold.layer, made)
            flips, rescaled = flips + flipped, rescaled + coarse
        else:
            if behind is not None:
                fold_behind(layer, behind, fold.layer)
            if front is not None:
                fold_in_front(layer, front, fold.layer)
        for name in (fold.behind, fold.front):
            if name:
                replace_module(fused, name, nn.Identity().train(model.training))
                count += 1
    errors = {fold.layer: probe.layer_error(fold, fused.get_submodule(fold.layer)) for fold in folds}
    worst = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]), default="")  # NaN is worst of all
    with in_eval_mode(fused), torch.inference_mode():
        output_error = relative_error(fused(*example_inputs), probe.output)
    surgery.inherit(fused, model)
    surgery.record(fused, "fuse", folds=[[fold.layer, fold.behind, fold.front] for fold in folds])
    error = errors.get(worst, 0.0) if integer else output_error
    return FoldResult(fused, count, error, worst, flips, output_error, rescaled, left)


def refold(model: nn.Module, entry: surgery.Entry) -> nn.Module:
    """Give ``model`` the structure that a recorded fold left behind; its tensors are loaded afterwards."""
    for name, behind, front in entry["folds"]:
        layer = model.get_submodule(name)
        if _becomes_integer(layer):
            replace_module(model, name, folded_like(layer, bias=bool(behind) or layer.bias is not None))
        elif layer._parameters.get("bias") is None:
            outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            layer.register_parameter("bias", nn.Parameter(torch.zeros(int(outputs))))  # type: ignore[arg-type]
        for norm in (behind, front):
            if norm:
                replace_module(model, norm, nn.Identity().train(model.training))
    surgery.record(model, **entry)
    return model


def _becomes_integer(layer: nn.Module) -> TypeGuard[QuantizedLayer]:
    """Whether there are integers to fold into: a layer written by hand may have a float weight."""
    return isinstance(layer, QuantizedLayer) and layer.weight_quantizer.bits != OFF


def _batch_norm(model: nn.Module, name: str) -> nn.modules.batchnorm._BatchNorm | None:
    if not name:
        return None
    found = model.get_submodule(name)
    assert isinstance(found, nn.modules.batchnorm._BatchNorm)
    return found


class _Probe:
    """One run of the unfused model, with what went into and came out of each leaf."""

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in model.named_modules()
            if isinstance(module, _PROBED)
        ]
        try:
            with in_eval_mode(model), torch.inference_mode(), fitting(model, "the example inputs", example_inputs):
                self.output = model(*example_inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.dims = {name: tensor.dim() for name, tensor in self.outputs.items()}

    def layer_error(self, fold: Fold, fused: nn.Module) -> float:
        """How far the folded layer is from the layer and its batch norms, on the unfused model's tensors."""
        x = self.inputs.get(fold.front or fold.layer)
        expected = self.outputs.get(fold.behind or fold.layer)
        if x is None or expected is None:  # a branch that this input does not take
            return 0.0
        with in_eval_mode(fused), torch.inference_mode():
            return relative_error(fused(x), expected)

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            # cloned: an in-place activation may write over the output right away
            self.inputs[name], self.outputs[name] = [*args, *named.values()][0].clone(), output.clone()

        return keep


_PROBED = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)
