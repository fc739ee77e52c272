"""What a genome is worth: the network it stands for, without training its weights, on images held out of training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mcomp.pruning.repeated import RepeatedPruning
from mcomp.quantization import quantize, reestimate_batch_norms
from mcomp.search.scale_tuning import tune_scales

#: Layer to kind (``w_bits``, ``a_bits``, ``keep``) to value.
Choice = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Level:
    """How closely a candidate is looked at.

    Attributes:
        norm_batches: batches that batch norm statistics are measured on.
        images: held-out images that count; None for all.
        steps: of training quantiser scales and batch norms, before it counts.
    """

    norm_batches: int
    images: int | None
    steps: int = 0


PROXY = Level(norm_batches=2, images=128)
FULL = Level(norm_batches=100, images=None, steps=16)
LEVELS = {"proxy": PROXY, "full": FULL}
#: Batches that the ranges of activations are measured on.
CALIBRATION = 1


class Score(NamedTuple):
    """What held-out images say of a candidate, in percent.

    Attributes:
        top1: images with the right answer.
        probability: mean probability of the right answer: what top-1 would be on average, were answers drawn by the
            network's own probabilities. Of few images it says more than top-1, which jumps by whole images.
    """

    top1: float
    probability: float


@dataclass
class Fitness:
    """Top-1 and probability of a candidate, after its ranges and batch norm statistics were measured.

    A candidate is cut physically, then quantised with a learned step size per tensor that starts from the least
    squared error (Esser et al., arXiv:1902.08153); statistics are those of the network as it now is (Yu and Huang,
    "Universally Slimmable Networks", arXiv:1903.05134, section 3.3).

    Args:
        model: float and trained; unchanged.
        example_inputs: a batch that it accepts.
        batches: training images, as many as the closest look takes.
        targets: their labels, for the steps of the closest look; none are taken without.
        images: held out of training, ``(samples, ...)``.
        labels: theirs, int64 ``(samples,)``.
        pruning: cuts of this model; None where nothing is pruned.
        quantization: options of :func:`mcomp.quantization.quantize` for all candidates; None where nothing is
            quantised.
        batch_size: images per forward pass.
        device: where candidates are measured; they are made on the CPU.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    batches: Sequence[Tensor]
    images: Tensor
    labels: Tensor
    targets: Sequence[Tensor] = ()
    pruning: RepeatedPruning | None = None
    quantization: Mapping[str, Any] | None = field(default_factory=dict)
    batch_size: int = 256
    device: str = "cpu"

    def network(self, choice: Choice, level: Level = FULL) -> nn.Module:
        """The network that a choice stands for, in eval mode."""
        model = self.model
        if self.pruning is not None:
            shares = {name: kinds["keep"] for name, kinds in choice.items() if "keep" in kinds}
            model = self.pruning.cut(shares)
        norms = list(self.batches[: level.norm_batches])
        if self.quantization is None:
            made = model if model is not self.model else copy.deepcopy(model)
        else:
            made = quantize(
                model,
                self.example_inputs,
                overrides=_bits(choice),
                calibration=norms[:CALIBRATION],
                **self.quantization,
            )
        made.to(self.device)
        if level.steps and self.targets:
            given = zip(self.batches, self.targets, strict=True)
            # dropout draws: the same candidate is to have the same figure
            with torch.random.fork_rng([] if self.device == "cpu" else [self.device]):
                torch.manual_seed(0)
                tune_scales(made, ((x.to(self.device), y.to(self.device)) for x, y in given), level.steps)
        reestimate_batch_norms(made, (batch.to(self.device) for batch in norms))
        return made.eval()

    def __call__(self, choice: Choice, level: Level = FULL) -> Score:
        """How a candidate does on the held-out images.

        Raises:
            StageError: the network cannot be made.
        """
        network = self.network(choice, level)
        count = len(self.labels) if level.images is None else min(level.images, len(self.labels))
        right, probability = 0, 0.0
        with torch.no_grad():
            for start in range(0, count, self.batch_size):
                part = slice(start, min(start + self.batch_size, count))
                answers = network(self.images[part].to(self.device)).cpu()
                right += int((answers.argmax(1) == self.labels[part]).sum())
                sure = answers.double().softmax(1).gather(1, self.labels[part, None])
                probability += float(sure.nan_to_num(0.0).sum())  # what overflows answers nothing
        return Score(100.0 * right / count, 100.0 * probability / count)


def _bits(choice: Choice) -> dict[str, dict[str, int]]:
    """The overrides of a conversion."""
    found = {
        name: {kind: int(value) for kind, value in kinds.items() if kind != "keep"} for name, kinds in choice.items()
    }
    return {name: kinds for name, kinds in found.items() if kinds}
