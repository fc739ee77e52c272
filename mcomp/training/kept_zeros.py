"""Weights that were cut stay zero while a network trains on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from mcomp.surgery import provenance


class KeptZeros:
    """Holds the zeros of every weight that a ``sparsify`` entry of the model's surgery log names.

    There is no stored mask: of such a weight, what is zero when training begins stays zero. So a mask goes wherever
    the weights go, through pruning, folding, quantisation and every file, and cannot contradict them.

    Gradients are masked, before they are clipped. An optimiser that starts from rest then never moves these weights,
    whatever its momentum or weight decay: each of their state tensors stays zero too.

    Args:
        model: with the weights that the run begins with, before a snapshot is loaded.
    """

    def __init__(self, model: nn.Module) -> None:
        self._cut = [(weight, weight.detach() == 0) for weight in _sparsified(model)]

    def mask_gradients(self) -> None:
        """Set the gradients of all cut weights to zero."""
        for weight, cut in self._cut:
            if weight.grad is not None:
                weight.grad.masked_fill_(cut, 0.0)


def _sparsified(model: nn.Module) -> Iterator[Tensor]:
    """The parameters that were sparsified, as far as they still are parameters: folding turns some into integers."""
    names = {name for entry in provenance(model).log if entry["op"] == "sparsify" for name in entry["weights"]}
    return (parameter for name, parameter in model.named_parameters() if name in names)
