"""Batch norms folded while they train: which layers of a converted graph quantise the folded weight."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from mcomp.errors import StageError
from mcomp.quantization.config import QuantizeConfig
from mcomp.quantization.fold_pairs import BatchNorm, find_folds
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.plan import LayerPlan
from mcomp.quantization.quantizers.batch_norm_folded import BatchNormFoldedWeight, Foldable


def fold_in_training(traced: fx.GraphModule, layers: Iterable[LayerPlan]) -> None:
    """Let each convolution that asks for it, and has a batch norm of its own behind it, quantise the folded weight."""
    asked = {layer.name: layer.weights.options for layer in layers if layer.weights.options.get("fold_bn")}
    for fold in find_folds(traced, traced, {})[0] if asked else ():
        layer = traced.get_submodule(fold.layer)
        if not fold.behind or fold.layer not in asked or not isinstance(layer, QuantizedLayer):
            continue
        norm, options = traced.get_submodule(fold.behind), asked[fold.layer]
        assert isinstance(norm, BatchNorm)
        if isinstance(layer.weight_quantizer, Foldable):
            made = BatchNormFoldedWeight(
                layer.weight_quantizer,
                norm,
                options["fold_bn"],
                int(options["freeze_bn_after"]),
            )
            layer.weight_quantizer = made.to(layer.weight.device).train(layer.training)


def refuse_without_graph(config: QuantizeConfig) -> None:
    """Refuse folding where no graph says which batch norm stands behind a layer.

    Raises:
        StageError: MC420.
    """
    if config.options.get("fold_bn") or any(own.get("fold_bn") for own in config.overrides.values()):
        raise StageError(
            "`fold_bn` needs a graph, and this model has none: no one can say which batch norm stands behind a layer",
            code="MC420",
            hint="leave `fold_bn` out; batch norms are folded after training all the same",
        )
