"""Time three real batches of every stage that trains, and say what the whole run takes.

A stage's cost is put together from what was measured here: optimiser steps as the run makes them (augmentation,
precision, penalty, quantisers), the price of passing one image forward, a snapshot, and an artifact that is written and
measured. What a stage does beside that is a constant that it names (:attr:`mcomp.stages.forecast.Work.fixed_seconds`);
where this store has seen the same options finish on the same data, on this device and with about as many MACs, what
that took counts instead.

Ranges: the median of the batches, less and more by :data:`SPREAD` where the architecture is certain and by
:data:`SPREAD_UNCERTAIN` where it is the middle of a range. Memory is the largest resident set of this process, which
loaded what the run loads and has just done its largest steps.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from torch import nn

from mcomp.artifact import save_artifact
from mcomp.engine.disk import refuse_unwritable, standing
from mcomp.engine.forecast_costs import Outlook, StageCosts, alike, history, runs
from mcomp.engine.metering import Effort, common_metrics
from mcomp.engine.roots import keyed_options
from mcomp.errors import InterruptedRun, StageError
from mcomp.metrics import evaluate
from mcomp.quantization.summary import quantising_modules
from mcomp.search.network import WEIGHTED
from mcomp.store.snapshot import save_snapshot
from mcomp.training.loop import fit
from mcomp.training.preparation import steps_per_epoch

if TYPE_CHECKING:
    from mcomp.engine.planning import PlannedStage
    from mcomp.engine.workbench import Workbench
    from mcomp.stages.forecast import Forecast, Work
    from mcomp.training.settings import TrainSettings

#: Batches that are timed: at least so many, and more of small ones, until they add up to a figure the clock can tell.
BATCHES = 3
_MOST_BATCHES = 15
_TIMED_SECONDS = 1.0

SPREAD = 0.15
SPREAD_UNCERTAIN = 0.35
MEMORY_SPREAD = 0.12

#: What the allocator still holds of earlier stages in a run, as a factor: 1 to 44 % more was seen than in a probe.
_MEMORY_GROWTH = 1.15

#: Steps before the timed ones: the first allocates what all others reuse.
_WARM_UP = 2

#: Images of the evaluation that is timed.
_EVALUATED = 512

#: A calibration pass also fills histograms: so much dearer than an evaluation.
_CALIBRATION = 3.0

#: An artifact is written, read back, and its logits compared: so many times the writing.
_COMMIT = 3.0

#: MACs of a finished stage that tells what another takes: so many times more or less at the most.
_MACS_ALIKE = 1.2

_STOP = 2


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of all threads, and wall seconds."""

    cpu: float
    wall: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.cpu * times, self.wall * times)


def probe(outlook: Outlook, bench: Workbench, forecasts: dict[str, Forecast]) -> Outlook:
    """Fill in seconds, CPU seconds and memory of every stage that has to run.

    Args:
        outlook: after :func:`mcomp.engine.forecasting.shapes`.
        bench: of the same recipe and store.
        forecasts: what each stage hands on, and under an empty id what the first one gets.
    """
    past = history(outlook.store)
    if outlook.waiting:
        refuse_unwritable(outlook.store.root)
    lines, costs = [], dict(outlook.costs)
    for line in outlook.plan.stages:
        if runs(line):
            given = forecasts["" if line.stage.source is None else line.stage.source]
            found = forecasts[line.stage.id]
            records = _comparable(past.get(line.stage.uses, []), line, bench, found)
            try:
                line, costs[line.stage.id] = _probed(line, costs[line.stage.id], bench, given, found, records)
            except StageError as error:
                line = replace(line, reason=f"{line.reason}; would fail: {error.message}")
        lines.append(line)
    return outlook.with_lines(lines, costs)


def _probed(
    line: PlannedStage,
    cost: StageCosts,
    bench: Workbench,
    given: Forecast,
    found: Forecast,
    records: list[dict[str, Any]],
) -> tuple[PlannedStage, StageCosts]:
    """The line and its costs with time and memory, from batches where there is something to time, else from history."""
    work = line.stage.cls.work(line.stage.options)
    if work is None or found.model is None:
        return (line, cost) if not records else _remembered(line, cost, records)
    if given.model is None or quantising_modules(given.model):
        work = replace(work, calibration=0)  # its ranges are there already
    effort = Effort(bench.device)
    taken = _Probe(bench, found.model, work).taken(_left(line, bench))
    memory = _MEMORY_GROWTH * effort.spent()["peak_memory_bytes"] + work.extra_memory_bytes
    span = round(memory * (1 - MEMORY_SPREAD)), round(memory * (1 + MEMORY_SPREAD))
    if records and work.training is None:
        return _remembered(replace(line, memory_bytes=span), cost, records)
    share = SPREAD if found.exact else SPREAD_UNCERTAIN
    line = replace(line, seconds=_about(taken.wall, share), memory_bytes=span)
    return line, replace(cost, cpu_seconds=_about(taken.cpu, share))


def _comparable(
    records: list[dict[str, Any]], line: PlannedStage, bench: Workbench, found: Forecast
) -> list[dict[str, Any]]:
    """The records of stages that did what this one will do: same options, data and numerics, about as many MACs."""
    if found.macs is None:
        return []
    options = keyed_options(line.stage.options, bench.recipe.base_dir)
    now = {"options": options, "data": bench.keys.root.data, "numerics": bench.keys.root.numerics}
    low, high = found.macs[0] / _MACS_ALIKE, found.macs[1] * _MACS_ALIKE
    if low * _MACS_ALIKE**3 < high:  # a range so wide that nothing in it says what the middle takes
        return []

    def same(record: dict[str, Any]) -> bool:
        before, macs = record["preimage"], record["metrics"].get("macs")
        parts = [part for part in now if part != "data" or before.get("data") is not None]
        return alike(before, now, parts) and isinstance(macs, int | float) and low <= macs <= high

    return [record for record in records if same(record)]


def _remembered(line: PlannedStage, cost: StageCosts, records: list[dict[str, Any]]) -> tuple[PlannedStage, StageCosts]:
    def span(name: str, share: float) -> tuple[float, float] | None:
        seen = [record[name] for record in records if isinstance(record.get(name), int | float)]
        return _rounded((min(seen) * (1 - share), max(seen) * (1 + share))) if seen else None

    memory = line.memory_bytes if line.memory_bytes is not None else span("peak_memory_bytes", MEMORY_SPREAD)
    line = replace(line, seconds=span("seconds", SPREAD), memory_bytes=memory)
    return line, replace(cost, cpu_seconds=span("cpu_seconds", SPREAD))


def _left(line: PlannedStage, bench: Workbench) -> float:
    """The share of the training that is still to do."""
    progress = bench.store.has_work(line.key) if line.status == "resume" and line.key is not None else None
    if not progress or not progress.get("epochs"):
        return 1.0
    return max(0.0, 1 - float(progress.get("epoch", 0)) / float(progress["epochs"]))


class _Probe:
    """The measurements of one stage."""

    def __init__(self, bench: Workbench, model: nn.Module, work: Work) -> None:
        self.bench, self.data, self.work = bench, bench.data, work
        self.model = copy.deepcopy(model).cpu()

    def taken(self, left: float) -> Seconds:
        """What the stage will take, ``left`` being the share of its training that is still to do."""
        work, data = self.work, self.data
        total = Seconds(work.fixed_seconds, work.fixed_seconds) + self._commit()
        if work.training is not None:
            step, snapshot, start = self._steps(work.training)
            total += start
            per_epoch = steps_per_epoch(data, work.training.batch_size or data.batch_size)
            total += (step * per_epoch + snapshot) * (work.training.epochs * left)
        image = self._image()
        images = work.evaluations * len(data.test) + _CALIBRATION * min(work.calibration, len(data.train))
        images += work.layer_images * sum(isinstance(module, WEIGHTED) for module in self.model.modules())
        if work.training is not None:
            images += work.training.epochs * left * len(data.val)
        return total + image * images

    def _steps(self, settings: TrainSettings) -> tuple[Seconds, Seconds, Seconds]:
        """One optimiser step, one snapshot, and what the first steps take beyond others: imports, first allocations.

        The run pays the last where this probe does, at its first stage that trains.
        """
        per_epoch = steps_per_epoch(self.data, settings.batch_size or self.data.batch_size)
        clock = _Clock()
        seen: list[Seconds] = []
        snapshots: list[dict[str, Any]] = []

        def after_step(_model: nn.Module, done: int) -> None:
            taken = clock.lap()
            if (done - 1) % per_epoch or per_epoch == 1:  # the first step of an epoch has the last one's end in it
                seen.append(taken)

        def enough() -> int:
            timed = seen[_WARM_UP:]
            spent = sum(lap.cpu for lap in timed)
            return _STOP if len(timed) >= (BATCHES if spent > _TIMED_SECONDS else _MOST_BATCHES) else 0

        with suppress(InterruptedRun):  # as asked: enough was seen
            fit(
                self.model,
                self.data,
                settings,
                device=self.bench.device,
                precision=self.bench.precision,
                save=snapshots.append,
                should_stop=enough,
                penalty=None if self.work.penalty is None else self.work.penalty(),
                after_step=after_step,
            )
        step = _median(seen[_WARM_UP:] or seen)
        return step, _timed(lambda: self._keep(snapshots[-1])), _beyond(seen[:_WARM_UP], step)

    def _keep(self, snapshot: dict[str, Any]) -> None:
        with self._folder() as folder:
            save_snapshot(folder, snapshot)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder on the disk that the run will write to: in the store, or where that would be made."""
        store = self.bench.store
        if store.exists():
            with store.staging() as folder:
                yield folder
        else:
            with tempfile.TemporaryDirectory(prefix="mcomp-probe-", dir=standing(store.root)) as name:
                yield Path(name)

    def _image(self) -> Seconds:
        """Passing one image forward."""
        sample = self.data.test.subset(_EVALUATED)
        evaluate(self.model, sample, device=self.bench.device)  # takes the memory that every later pass reuses
        return _timed(lambda: evaluate(self.model, sample, device=self.bench.device)) * (1 / len(sample))

    def _commit(self) -> Seconds:
        """Writing the artifact and taking the figures that every stage has."""
        inputs = self.bench.example_inputs
        with self._folder() as folder:
            written = _timed(lambda: save_artifact(self.model.eval(), folder, inputs))
        return written * _COMMIT + _timed(lambda: common_metrics(self.model, inputs, 0))


class _Clock:
    """CPU and wall seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.process_time(), time.perf_counter()

    def lap(self) -> Seconds:
        """Both, and start anew."""
        now = time.process_time(), time.perf_counter()
        taken = Seconds(now[0] - self._last[0], now[1] - self._last[1])
        self._last = now
        return taken


def _timed(action: Callable[[], object]) -> Seconds:
    clock = _Clock()
    action()
    return clock.lap()


def _median(laps: list[Seconds]) -> Seconds:
    return Seconds(median(lap.cpu for lap in laps), median(lap.wall for lap in laps))


def _beyond(laps: list[Seconds], usual: Seconds) -> Seconds:
    """What these took more than as many usual ones."""
    count = len(laps)
    return Seconds(
        max(0.0, sum(lap.cpu for lap in laps) - count * usual.cpu),
        max(0.0, sum(lap.wall for lap in laps) - count * usual.wall),
    )


def _about(middle: float, share: float) -> tuple[float, float]:
    return _rounded((middle * (1 - share), middle * (1 + share)))


def _rounded(span: tuple[float, float]) -> tuple[float, float]:
    return round(span[0], 3), round(span[1], 3)
