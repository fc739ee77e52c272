"""Compare a written file with the model it was made of: accuracy, agreement, noise, and speed beside its float self."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mcomp.data import Split
    from mcomp.metrics import Latency

#: A file that computes the simulated values bit for bit has no noise; this stands for it in reports.
NOISELESS_DB = 200.0


class Session(Protocol):
    """A file in a runtime, ready to run."""

    threads: int

    def predict(self, *inputs: Tensor) -> Tensor:
        """The first output for a batch."""


@dataclass(frozen=True)
class Verification:
    """What a file said about a split, against the simulated model.

    Attributes:
        top1: percent, of the file.
        loss: mean cross-entropy of the file, in nats.
        simulated_top1: percent, of the model in torch.
        agreement: percent of samples for which both predict the same class.
        sqnr_db: signal to noise of the file's logits against the model's; at most :data:`NOISELESS_DB`.
    """

    top1: float
    loss: float
    simulated_top1: float
    agreement: float
    sqnr_db: float


def verify(run: Callable[[Tensor], Tensor], model: nn.Module, split: Split, batch_size: int = 256) -> Verification:
    """Run both over ``split``, in float32 on the CPU.

    Args:
        run: the file, e.g. :meth:`OnnxSession.predict`: ``(N, C, H, W)`` to ``(N, classes)``.
        model: the simulated model, in eval mode.
        split: e.g. ``data.test``.
        batch_size: samples per call.

    Raises:
        UsageError: MC427, ``run`` cannot be called, the model is none, or ``split`` is none.
    """
    from mcomp.quantization.inputs import check_model

    check_model(model)
    for what, given, wanted in (("run", run, "__call__"), ("split", split, "batches")):
        if not hasattr(given, wanted):
            raise UsageError(
                f"`{what}` is a `{type(given).__name__}`",
                code="MC427",
                hint="call e.g. `verify(OnnxSession(path).predict, model, data.test)`",
            )
    reference, truth = answers(model, split, batch_size)
    logits, _ = answers(run, split, batch_size)
    return judged(logits, reference, truth)


def answers(run: Callable[[Tensor], Tensor], split: Split, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """``(samples, classes)`` in float32 on the CPU, and the labels ``(samples,)``, of a whole split in its order."""
    logits, labels = [], []
    with torch.inference_mode():
        for images, targets in split.batches(batch_size):
            logits.append(run(images).float().cpu())
            labels.append(targets)
    return torch.cat(logits), torch.cat(labels)


def judged(logits: Tensor, reference: Tensor, truth: Tensor) -> Verification:
    """The figures of a file's answers beside those of its model and the labels."""
    from mcomp.metrics import sqnr_db, top1_agreement

    noise = sqnr_db(reference, logits)
    return Verification(
        top1=top1_agreement(logits, truth),
        loss=F.cross_entropy(logits, truth).item(),
        simulated_top1=top1_agreement(reference, truth),
        agreement=top1_agreement(logits, reference),
        sqnr_db=max(-NOISELESS_DB, min(noise, NOISELESS_DB)) if not math.isnan(noise) else -NOISELESS_DB,
    )


def compare_latency(
    files: Mapping[str, Session], example_inputs: tuple[Tensor, ...], batch: int = 1, runs: int = 30
) -> dict[str, Latency]:
    """Time several files in turns, so that their ratio holds on a busy machine. Milliseconds per call."""
    from mcomp.metrics.timing import batch_of, interleaved

    inputs = tuple(batch_of(tensor, batch) for tensor in example_inputs)
    calls = {name: _call(session, inputs) for name, session in files.items()}
    timed = interleaved(calls, runs=runs, batch=batch)
    return {name: replace(found, threads=files[name].threads) for name, found in timed.items()}


def _call(session: Session, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    return lambda: session.predict(*inputs)
