"""The training loop that every stage shares: plain, sparse, fine-tuning, quantisation-aware."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import InterruptedRun, StageError
from mcomp.training import random_state
from mcomp.training.averaging import WeightAverage
from mcomp.training.kept_zeros import KeptZeros
from mcomp.training.meter import Meter
from mcomp.training.mixing import Mixing
from mcomp.training.optimizers import build_optimizer
from mcomp.training.penalty import Penalty
from mcomp.training.preparation import check_outputs, logits, placed, steps_per_epoch, takes_channels_last
from mcomp.training.schedule import learning_rate
from mcomp.training.settings import TrainSettings
from mcomp.training.snapshot import (
    FORMAT,
    Snapshot,
    load_model_tensors,
    load_optimizer_state,
    model_tensors,
    optimizer_state,
)

if TYPE_CHECKING:
    from mcomp.data import Data

#: Seconds between two progress reports; each of them waits for the device once.
REPORT_EVERY = 0.2

#: ``(outputs, labels, inputs) -> scalar``; outputs are float32, inputs as the model got them. Labels are classes
#: ``(N,)``, or probabilities ``(N, classes)`` where images are mixed.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class FitResult:
    """What training hands back.

    Attributes:
        model: the very model that was passed in, trained, in eval mode, on the device it came from.
        history: one dict per epoch: epoch (from 1), epochs, loss, top1 (percent, on the training images as they were
            seen), images_per_s, val_top1 (where there is a validation split), lr (of the last step), seconds, and the
            penalty's.
    """

    model: nn.Module
    history: list[dict[str, Any]]


def _ignore(*_args: Any, **_fields: Any) -> None:
    """Drop a progress report, a log line or a snapshot."""


def fit(
    model: nn.Module,
    data: Data,
    settings: TrainSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    report: Callable[..., None] = _ignore,
    log: Callable[[str], None] = _ignore,
    save: Callable[[Snapshot], None] = _ignore,
    restore: Callable[[], Snapshot | None] = lambda: None,
    should_stop: Callable[[], int] = lambda: 0,
    penalty: Penalty | None = None,
    after_step: Callable[[nn.Module, int], None] | None = None,
    loss: Loss | None = None,
    train_mode: Callable[[nn.Module], None] | None = None,
) -> FitResult:
    """Train ``model`` in place on ``data.train``; on one machine the same seed gives the same bits.

    A step is: forward (under bfloat16 autocast and channels-last where ``precision`` is ``"bf16"``; weights,
    gradients and normalisation statistics stay float32), backward, gradient clipping, ``penalty.before_step``, the
    optimiser, ``penalty.after_step``, ``after_step``. Weights that ``sparsify`` cut stay zero. A last batch of a single
    image is left out: batch norm has no variance there. Accuracy on ``data.val`` is measured after every epoch; the
    weights are those of the last epoch, or their moving average where ``ema`` asks for it: that is what is measured.

    Args:
        model: any module from ``(N, C, H, W)`` float32 to ``(N, classes)``.
        data: gives ``train``, ``val``, ``num_classes``, ``batch_size`` and ``example_inputs``.
        settings: optimiser, schedule, length.
        seed: of the shuffling, the augmentation and every generator the model draws from (dropout). The global
            generators are given back as they were.
        device: resolved: ``"cpu"``, ``"cuda"`` or ``"cuda:n"``.
        precision: resolved: ``"fp32"`` or ``"bf16"``.
        report: progress, ``report("step", …)`` at most every 0.2 s and ``report("epoch", …)``.
        log: a line for the person who watches.
        save: keeps a snapshot: as often as ``checkpoint_every`` says, after the last epoch, and when stopping. Its
            tensors are the model's own: it must have written them when it returns.
        restore: the last snapshot or None. Going on from it ends with the same bits (CPU, same thread count).
        should_stop: asked after every step; the number of a signal that asks to stop, or 0.
        penalty: pulls parameters to zero.
        after_step: called with the model and the number of finished steps (from 1).
        loss: replaces cross-entropy.
        train_mode: replaces ``model.train()``, e.g. to keep batch norms frozen.

    Raises:
        StageError: MC402 no training images; MC403 the outputs do not fit the classes; MC404 nothing to train;
            MC405 the snapshot is another network's; MC406 the loss is no longer a number.
        InterruptedRun: ``should_stop`` gave a signal; the snapshot was saved.
    """
    check_outputs(model, data)
    channels_last = precision == "bf16" and takes_channels_last(model, data)
    with random_state.seeded(seed, device), placed(model, device, channels_last=channels_last):
        hooks = _Hooks(report, log, save, should_stop, penalty, after_step, loss, train_mode)
        run = _Run(model, data, settings, hooks, seed, device, precision, channels_last)
        run.resume(restore())
        run.to_the_end()
        model.eval()
    return FitResult(model, run.history)


@dataclass(frozen=True)
class _Hooks:
    report: Callable[..., None]
    log: Callable[[str], None]
    save: Callable[[Snapshot], None]
    should_stop: Callable[[], int]
    penalty: Penalty | None
    after_step: Callable[[nn.Module, int], None] | None
    loss: Loss | None
    train_mode: Callable[[nn.Module], None] | None


class _Run:
    """One run: where it stands (epoch, batch, sums, history) and how it moves on."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        settings: TrainSettings,
        hooks: _Hooks,
        seed: int,
        device: str,
        precision: str,
        channels_last: bool,
    ) -> None:
        self.model, self.data, self.settings, self.hooks = model, data, settings, hooks
        self.seed, self.device, self.precision, self.channels_last = seed, device, precision, channels_last
        self.batch_size = settings.batch_size or data.batch_size
        self.steps = steps_per_epoch(data, self.batch_size)
        self.optimizer = build_optimizer(model, settings)
        self.kept_zeros = KeptZeros(model)
        self.average = None if settings.ema is None else WeightAverage(model, settings.ema)
        self.mixing = Mixing(settings, data.num_classes, seed) if settings.mixup or settings.cutmix else None
        if hooks.penalty is not None:
            hooks.penalty.prepare(model, data.example_inputs, settings.epochs * self.steps)
        self.epoch = 0
        self.batch = 0
        self.lr = 0.0
        self.meter = Meter()
        self.history: list[dict[str, Any]] = []
        self.epoch_seconds = 0.0  # spent on this epoch before the resume
        self._started = self._reported = self._epoch_started = time.monotonic()
        self._first_step = self._first_seen = 0
        self._saved_at, self._saved_step = time.monotonic(), 0

    @property
    def done(self) -> int:
        """Finished steps of the whole run."""
        return self.epoch * self.steps + self.batch

    def resume(self, snapshot: Snapshot | None) -> None:
        """Go to where the snapshot stands."""
        if snapshot is None:
            return
        if snapshot.get("format") != FORMAT:
            self.hooks.log("the training snapshot is of another version of mcomp: training starts over")
            return
        if self.device == "cpu" and snapshot["threads"] != torch.get_num_threads():
            self.hooks.log(
                f"going on with {torch.get_num_threads()} threads what {snapshot['threads']} began: "
                "float sums, and so the final bits, may differ"
            )
        load_model_tensors(self.model, snapshot["model"])
        load_optimizer_state(self.optimizer, snapshot["optimizer"])
        if self.average is not None:
            self.average.load(snapshot.get("average", {}))
        self.epoch, self.batch, self.lr = snapshot["epoch"], snapshot["step"], snapshot["lr"]
        self.history = list(snapshot["history"])
        self.meter = Meter(**snapshot["meter"])
        self.epoch_seconds = snapshot["epoch_seconds"]
        random_state.restore(snapshot["random"], self.device)
        self._first_step, self._first_seen = self.done, self.meter.seen
        self._saved_step = self.done

    def snapshot(self) -> Snapshot:
        """Everything :meth:`resume` needs."""
        return {
            "format": FORMAT,
            "epoch": self.epoch,
            "epochs": self.settings.epochs,
            "step": self.batch,
            "steps": self.steps,
            "lr": self.lr,
            "model": model_tensors(self.model),
            "optimizer": optimizer_state(self.optimizer),
            "average": {} if self.average is None else self.average.state(),
            "random": random_state.capture(self.device),
            "history": [dict(row) for row in self.history],
            "meter": self.meter.state(),
            "epoch_seconds": self.epoch_seconds + time.monotonic() - self._epoch_started,
            "threads": torch.get_num_threads(),
        }

    def to_the_end(self) -> None:
        """Train the epochs that are left."""
        while self.epoch < self.settings.epochs:
            self._train_epoch()
            self._finish_epoch()
            every = self.settings.checkpoint_every.epochs
            last = self.epoch == self.settings.epochs
            if last or (every is not None and self.epoch % every == 0) or self._snapshot_due():
                self._save()
        if self.average is not None:
            self.average.deliver()

    def _snapshot_due(self) -> bool:
        """Whether enough steps or seconds have passed since the last snapshot."""
        every = self.settings.checkpoint_every
        return (every.steps is not None and self.done - self._saved_step >= every.steps) or (
            every.seconds is not None and time.monotonic() - self._saved_at >= every.seconds
        )

    def _save(self) -> None:
        self._read_meter()
        self.hooks.save(self.snapshot())
        self._saved_at, self._saved_step = time.monotonic(), self.done

    def _train_epoch(self) -> None:
        self._epoch_started = time.monotonic()
        self._first_seen = self.meter.seen
        if self.hooks.train_mode is None:
            self.model.train()
        else:
            self.hooks.train_mode(self.model)
        batches = self.data.train.batches(
            self.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            augment=self.settings.augment,
            skip=self.batch,
            device=self.device,
        )
        for inputs, labels in batches:
            if self.batch == self.steps:  # a last batch of one image
                break
            self._step(inputs, labels)
            self.batch += 1
            if self.hooks.after_step is not None:
                self.hooks.after_step(self.model, self.done)
            if time.monotonic() - self._reported >= REPORT_EVERY:
                self._report_step()
            if signal_number := self.hooks.should_stop():
                self._save()
                raise InterruptedRun(signal_number)
            if self.batch < self.steps and self._snapshot_due():  # behind the last step the epoch's end is as near
                self._save()

    def _step(self, inputs: Tensor, labels: Tensor) -> None:
        settings, penalty = self.settings, self.hooks.penalty
        self.lr = learning_rate(settings, self.done, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.zero_grad()
        targets = labels
        if self.mixing is not None:
            inputs, targets = self.mixing(inputs, labels, self.done)
            labels = targets.argmax(1)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.precision == "bf16":
            with torch.autocast(self.device.partition(":")[0], torch.bfloat16):
                outputs = logits(self.model(inputs)).float()
        else:
            outputs = logits(self.model(inputs))
        if self.hooks.loss is None:
            loss = F.cross_entropy(outputs, targets, label_smoothing=settings.label_smoothing)
        else:
            loss = self.hooks.loss(outputs, targets, inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        self.kept_zeros.mask_gradients()
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        if penalty is not None:
            penalty.before_step(self.model)
        self.optimizer.step()
        if penalty is not None:
            penalty.after_step(self.model, self.lr, self.done + 1)
        if self.average is not None:
            self.average.update(self.done + 1)
        self.meter.add(loss, outputs, labels)

    def _report_step(self) -> None:
        self._read_meter()
        now = time.monotonic()
        self._reported = now
        per_step = (now - self._started) / max(self.done - self._first_step, 1)  # with validation, once there was one
        self.hooks.report(
            "step",
            epoch=self.epoch + 1,
            epochs=self.settings.epochs,
            step=self.batch,
            steps=self.steps,
            loss=self.meter.loss,
            top1=self.meter.top1,
            images_per_s=self._images_per_second(),
            eta_s=per_step * (self.settings.epochs * self.steps - self.done),
        )

    def _finish_epoch(self) -> None:
        from mcomp.metrics import evaluate

        self._read_meter()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "epochs": self.settings.epochs}
        row |= {"loss": self.meter.loss, "top1": self.meter.top1, "images_per_s": self._images_per_second()}
        if len(self.data.val):
            with nullcontext() if self.average is None else self.average.in_place():
                row["val_top1"] = evaluate(self.model, self.data.val, device=self.device).top1
        row["lr"] = self.lr
        row["seconds"] = self.epoch_seconds + time.monotonic() - self._epoch_started
        if self.hooks.penalty is not None:
            row |= self.hooks.penalty.record(self.model, self.done)
        self.history.append(row)
        self.epoch, self.batch, self.meter, self.epoch_seconds = self.epoch + 1, 0, Meter(), 0.0
        self._epoch_started = time.monotonic()
        self.hooks.report("epoch", **row)

    def _images_per_second(self) -> float:
        return (self.meter.seen - self._first_seen) / max(time.monotonic() - self._epoch_started, 1e-9)

    def _read_meter(self) -> None:
        broken = self.meter.read()
        if broken is None:
            return
        value, ago = broken
        step = self.batch - ago
        rate = learning_rate(self.settings, self.epoch * self.steps + step - 1, self.steps)
        clip = "null" if self.settings.grad_clip is None else f"{self.settings.grad_clip:g}"
        raise StageError(
            f"the loss became {value} in epoch {self.epoch + 1} of {self.settings.epochs}, "
            f"step {step} of {self.steps}, at learning rate {rate:.3g}",
            code="MC406",
            hint=f"lower `lr` (now {self.settings.lr:g}) or `grad_clip` (now {clip}), or add warm-up with "
            "`warmup_epochs: 1`" + ("; `precision: fp32` rules rounding out" if self.precision == "bf16" else ""),
        )
