"""Top-1 accuracy and cross-entropy of a classifier, in float32."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.data import Split


@dataclass(frozen=True)
class Evaluation:
    """What a model said about a split.

    Attributes:
        top1: percent of samples whose largest logit is the label's.
        loss: mean cross-entropy in nats.
        predictions: ``(samples,)`` int64, on the CPU, in the split's order.
        labels: ``(samples,)`` int64, on the CPU.
    """

    top1: float
    loss: float
    predictions: Tensor
    labels: Tensor


@torch.no_grad()  # not inference_mode: a model moved to a GPU and back in it could not be trained again
def evaluate(model: nn.Module, split: Split, *, device: str = "cpu", batch_size: int = 256) -> Evaluation:
    """Run ``model`` over ``split`` in order, in eval mode and float32, and leave it as it was found.

    Args:
        model: ``(N, C, H, W)`` to ``(N, classes)`` logits.
        split: one split of a :class:`mcomp.data.Data`.
        device: where to compute; the model is moved there and back.
        batch_size: samples per forward pass.

    Raises:
        StageError: the split is empty, or the output is not ``(N, classes)`` with a logit for every label.
    """
    return evaluate_batches(model, split.batches(batch_size, device=device), device=device)


@torch.no_grad()
def evaluate_batches(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, device: str = "cpu") -> Evaluation:
    """:func:`evaluate` on batches that are at hand, images and labels on ``device``.

    Raises:
        StageError: there is no batch, or the output is not ``(N, classes)`` with a logit for every label.
    """
    predictions: list[Tensor] = []
    labels: list[Tensor] = []
    total_loss = 0.0
    with in_eval_mode(model), _on(model, device), torch.autocast(torch.device(device).type, enabled=False):
        for images, targets in batches:
            logits = model(images)
            _check_logits(logits, targets)
            total_loss += F.cross_entropy(logits.float(), targets, reduction="sum").item()
            predictions.append(logits.argmax(1).cpu())
            labels.append(targets.cpu())
    if not labels:
        raise StageError("cannot evaluate on an empty split", code="MC241", hint="give the data set more images")
    predicted, true = torch.cat(predictions), torch.cat(labels)
    top1 = 100.0 * (predicted == true).sum().item() / len(true)
    return Evaluation(top1, total_loss / len(true), predicted, true)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch every submodule to eval mode, then give each its own mode back (a frozen BN stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _on(model: nn.Module, device: str) -> Iterator[None]:
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    home = torch.device("cpu") if first is None else first.device
    moved = home != torch.device(device)
    if moved:
        model.to(device)
    try:
        yield
    finally:
        if moved:
            model.to(home)


def _check_logits(logits: object, targets: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.size(0) != targets.size(0):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise StageError(
            f"the model returned {found} for {targets.size(0)} images, expected ({targets.size(0)}, classes)",
            code="MC242",
            hint="wrap the model so that its forward returns one logit per class",
        )
    if int(targets.max()) >= logits.size(1):
        raise StageError(
            f"the data has a label {int(targets.max())}, the model only {logits.size(1)} outputs",
            code="MC242",
            hint="set the model's `num_classes` to the data set's",
        )
