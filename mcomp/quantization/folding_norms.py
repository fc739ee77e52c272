"""Whether the batch norms that weights are trained as folded with are those that work in the model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mcomp.errors import StageError
from mcomp.quantization.quantizers.batch_norm_folded import BatchNormFoldedWeight


def refuse_synchronised(model: nn.Module) -> None:
    """Refuse a batch norm that several processes share where the weight is folded by the statistics of the batch.

    Those would be of one process's batch, while the batch norm tracks that of all.

    Raises:
        StageError: MC420.
    """
    for name, fold in _folded(model):
        by_batch = fold.folding == "batch" or fold.inner.channel_axis is None
        if by_batch and isinstance(fold.norm, nn.SyncBatchNorm):
            raise StageError(
                f"`{name}` cannot be trained as folded with a `SyncBatchNorm` by the statistics of a batch",
                code="MC420",
                why="they would be those of one process, and the batch norm has those of all",
                hint="use `fold_bn: correction` with `per_channel: true`, or plain batch norms",
            )


def refuse_replaced(model: nn.Module) -> None:
    """Refuse a model in which another batch norm took the place of one that a weight was trained as folded with.

    Raises:
        StageError: MC420.
    """
    present = set(model.modules())
    for name, fold in _folded(model):
        if fold.norm not in present:
            raise StageError(
                f"the batch norm that `{name}` was trained as folded with is no longer in the model",
                code="MC420",
                why="another module took its place, as `convert_sync_batchnorm` does, and the weight never saw it",
                hint="quantise the model once its batch norms are what they shall be, or leave `fold_bn` out",
            )


def _folded(model: nn.Module) -> Iterator[tuple[str, BatchNormFoldedWeight]]:
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, BatchNormFoldedWeight):
            yield name, quantizer
