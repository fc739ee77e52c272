"""Claim: mcomp's training loop costs at most 0.5 ms of Python per step over a bare PyTorch loop with the same maths.

Both train the same null model (one scale and one bias) on the same batches held in memory, with the same optimiser,
gradient clipping and learning rate of every step; they take turns. The figure is the median over rounds of the
difference in CPU time per step, snapshots apart (none falls due inside an epoch), progress reports included. Beside
it stands what mcomp's data pipeline takes for a batch, against indexing a tensor by a shuffled list; no augmentation.

    python benchmarks/step_overhead.py [--rounds 15] [--steps 2000] [--out benchmarks/results/step_overhead.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.training import TrainSettings, fit
from mcomp.training.optimizers import build_optimizer
from mcomp.training.schedule import learning_rate

LIMIT_MS = 0.5
BATCH, CLASSES = 8, 4


class Null(nn.Module):
    """As little maths as a classifier can have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1, CLASSES)), nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 1, 2, 2)`` to ``(N, classes)``."""
        return images.flatten(1)[:, :CLASSES] * self.scale + self.bias


class Split:
    """Batches that cost nothing to fetch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.batch = (torch.randn(BATCH, 1, 2, 2), torch.arange(BATCH) % CLASSES)

    def __len__(self) -> int:
        return self.steps * BATCH

    def num_batches(self, *_: Any, **__: Any) -> int:
        """Batches of an epoch."""
        return self.steps

    def batches(self, *_: Any, **__: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The same one over and over."""
        for _step in range(self.steps):
            yield self.batch


class Data:
    """What ``fit`` asks of data; no validation."""

    name, num_classes, batch_size, in_shape = "null", CLASSES, BATCH, (1, 2, 2)

    def __init__(self, steps: int) -> None:
        self.train, self.val, self.test = Split(steps), Split(0), Split(0)
        self.example_inputs = (self.train.batch[0][:2],)


def bare(data: Data, settings: TrainSettings) -> None:
    """The same maths, as a person would write it."""
    model = Null()
    optimizer = build_optimizer(model, settings)
    model.train()
    total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    for step, (images, labels) in enumerate(data.train.batches()):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, data.train.steps)
        optimizer.zero_grad()
        outputs = model(images)
        loss = F.cross_entropy(outputs, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.detach() * len(labels)
        correct += (outputs.detach().argmax(1) == labels).sum()


def ours(data: Data, settings: TrainSettings) -> None:
    fit(Null(), data, settings, report=lambda *_args, **_fields: None)  # type: ignore[arg-type]


def cpu_ms(work: Any, *arguments: Any) -> float:
    started = time.process_time()
    work(*arguments)
    return 1000 * (time.process_time() - started)


def pipeline_ms(steps: int) -> tuple[float, float]:
    """CPU milliseconds per batch of mcomp's batches, and of indexing by a shuffled list, on the digits."""
    from mcomp.data import load

    train = load(name="digits", batch_size=64).train
    images = torch.stack([batch[0] for batch, _ in train.batches(1)])
    labels = torch.cat([batch for _, batch in train.batches(1)])
    number = train.num_batches(64)
    rounds = max(steps // number, 1)

    def through_mcomp() -> None:
        for epoch in range(rounds):
            for _ in train.batches(64, seed=0, epoch=epoch, augment=False):
                pass

    def plain() -> None:
        for _ in range(rounds):
            for rows in torch.randperm(len(labels)).split(64):
                images[rows], labels[rows]

    return cpu_ms(through_mcomp) / (rounds * number), cpu_ms(plain) / (rounds * number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainSettings(epochs=1, grad_clip=1.0)
    data = Data(arguments.steps)
    ours(Data(50), settings)
    bare(Data(50), settings)
    rows: list[tuple[float, float]] = []
    for number in range(arguments.rounds):
        order = (ours, bare) if number % 2 else (bare, ours)  # neither always runs on the warmer cache
        taken = {work: cpu_ms(work, data, settings) / arguments.steps for work in order}
        rows.append((taken[ours], taken[bare]))
    overhead = statistics.median(mine - theirs for mine, theirs in rows)
    fetched, indexed = pipeline_ms(arguments.steps)
    result = {
        "unit": "CPU milliseconds per step, median of rounds",
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mcomp_ms": round(statistics.median(mine for mine, _ in rows), 4),
        "bare_ms": round(statistics.median(theirs for _, theirs in rows), 4),
        "overhead_ms": round(overhead, 4),
        "limit_ms": LIMIT_MS,
        "pipeline_ms_per_batch": {"mcomp": round(fetched, 4), "indexing": round(indexed, 4)},
    }
    print(
        f"per step: mcomp {result['mcomp_ms']} ms, bare loop {result['bare_ms']} ms, "
        f"overhead {result['overhead_ms']} ms (limit {LIMIT_MS} ms); "
        f"a batch of 64 digits: mcomp {fetched:.3f} ms, indexing {indexed:.3f} ms"
    )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if overhead > LIMIT_MS:
        raise SystemExit(f"the overhead is above {LIMIT_MS} ms")


if __name__ == "__main__":
    main()
