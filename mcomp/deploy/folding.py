"""Batch norms into the layers beside them, before a network leaves torch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcomp.errors import StageError


def folded(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """``model`` itself where it has no batch norm, else a folded copy.

    A float network that cannot be traced keeps its batch norms: the exporter folds those that it can.

    Raises:
        StageError: a quantised network cannot be traced, or a range is not known.
    """
    from mcomp.quantization import fold_batch_norms
    from mcomp.quantization.summary import quantising_modules

    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return model
    try:
        return fold_batch_norms(model, example_inputs).model
    except StageError:
        if quantising_modules(model):
            raise
        return model
