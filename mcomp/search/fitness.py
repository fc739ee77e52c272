"""What a genome is worth: the network it stands for, without training its weights, on images held out of training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.pruning.repeated import RepeatedPruning
from mcomp.quantization import quantize, reestimate_batch_norms

#: Layer to kind (``w_bits``, ``a_bits``, ``keep``) to value.
Choice = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Level:
    """How closely a candidate is looked at.

    Attributes:
        norm_batches: batches that batch norm statistics are measured on.
        images: held-out images that count; None for all.
    """

    norm_batches: int
    images: int | None


PROXY = Level(norm_batches=2, images=128)
FULL = Level(norm_batches=100, images=None)
#: Batches that the ranges of activations are measured on.
CALIBRATION = 1


@dataclass
class Fitness:
    """Top-1 of a candidate, in percent, after its ranges and batch norm statistics were measured.

    A candidate is cut physically, then quantised with a learned step size per tensor that starts from the least
    squared error (Esser et al., arXiv:1902.08153); statistics are those of the network as it now is (Yu and Huang,
    "Universally Slimmable Networks", arXiv:1903.05134, section 3.3).

    Args:
        model: float and trained; unchanged.
        example_inputs: a batch that it accepts.
        batches: training images, as many as the closest look takes.
        images: held out of training, ``(samples, ...)``.
        labels: theirs, int64 ``(samples,)``.
        pruning: cuts of this model; None where nothing is pruned.
        quantization: options of :func:`mcomp.quantization.quantize` for every candidate; None where nothing is quantised.
        batch_size: images per forward pass.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    batches: Sequence[Tensor]
    images: Tensor
    labels: Tensor
    pruning: RepeatedPruning | None = None
    quantization: Mapping[str, Any] | None = field(default_factory=dict)
    batch_size: int = 256

    def network(self, choice: Choice, level: Level = FULL) -> nn.Module:
        """The network that a choice stands for, in eval mode."""
        model = self.model
        if self.pruning is not None:
            shares = {name: kinds["keep"] for name, kinds in choice.items() if "keep" in kinds}
            model = self.pruning.cut(shares)
        norms = list(self.batches[: level.norm_batches])
        if self.quantization is None:
            model = model if model is not self.model else copy.deepcopy(model)
            reestimate_batch_norms(model, norms)
            return model.eval()
        bits = {
            name: {kind: int(value) for kind, value in kinds.items() if kind != "keep"}
            for name, kinds in choice.items()
            if kinds.keys() - {"keep"}
        }
        made = quantize(
            model, self.example_inputs, overrides=bits, calibration=norms[:CALIBRATION], **dict(self.quantization)
        )
        reestimate_batch_norms(made, norms)
        return made.eval()

    def __call__(self, choice: Choice, level: Level = FULL) -> float:
        """Percent of right answers.

        Raises:
            StageError: the network cannot be made.
        """
        network = self.network(choice, level)
        count = len(self.labels) if level.images is None else min(level.images, len(self.labels))
        right = 0
        with torch.no_grad():
            for start in range(0, count, self.batch_size):
                part = slice(start, min(start + self.batch_size, count))
                right += int((network(self.images[part]).argmax(1) == self.labels[part]).sum())
        return 100.0 * right / count
