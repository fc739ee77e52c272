"""Parameters, MACs and shapes of every stage, before any of them has run.

Each stage says what it will hand on from what it will get (:meth:`mcomp.stages.base.Stage.forecast`). It starts from
the recipe's own model, or from a cached artifact, whose weights are then known.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mcomp.engine.forecast_costs import Outlook, StageCosts, runs, undecided
from mcomp.errors import StageError
from mcomp.stages.forecast import Forecast

if TYPE_CHECKING:
    from torch import nn

    from mcomp.engine.plan import Cost, Plan, PlannedStage
    from mcomp.engine.workbench import Workbench
    from mcomp.recipe.model import RecipeStage

#: A manifest with its surgery log, and the folder's own files.
_MANIFEST_BYTES = 100_000

#: A deployed file's graph, beside its weights.
_GRAPH_BYTES = 200_000

#: Snapshots of a training stage that lie on disk at one time: the newest, the one before, the one being written.
_SNAPSHOTS = 3


class Forecaster:
    """Asks the stages of one plan, in order.

    Args:
        plan: what is cached and what runs.
        bench: loads the data and the models.
    """

    def __init__(self, plan: Plan, bench: Workbench) -> None:
        self.plan = plan
        self.bench = bench
        self.found: dict[str, Forecast] = {}
        self.faults: dict[str, str] = {}

    def run(self) -> dict[str, Forecast]:
        """Stage id to what it hands on; the recipe's own model under an empty id."""
        model = self.bench.initial_model()
        self.found[""] = Forecast.of(model, self.bench.example_inputs, weights_known=True)
        for entry, line in zip(self.plan.recipe.stages, self.plan.stages, strict=True):
            self.found[entry.id] = self._stage(entry, line)
        return self.found

    def incoming(self, stage: RecipeStage) -> Forecast:
        """What is known of the model that a stage gets."""
        given = self.found["" if stage.source is None else stage.source]
        return replace(given, seed=self.bench.keys.seed(stage))

    def _stage(self, entry: RecipeStage, line: PlannedStage) -> Forecast:
        if line.status == "skip":
            return self.incoming(entry)
        if line.record is not None:
            return self._cached(line)
        made = self._asked(line.stage)
        if not undecided(entry, self.plan):
            return made
        if isinstance(entry.otherwise, str):
            # where the run ends there, nothing follows that the forecast could be wrong of
            return made.either(self.incoming(entry)) if entry.otherwise == "skip" else made
        return made.either(self._asked(entry.otherwise))

    def _cached(self, line: PlannedStage) -> Forecast:
        """The stored model, read only where a stage behind it has to be forecast."""
        assert line.record is not None
        if not any(runs(later) or later.shared for later in self.plan.stages):
            return Forecast.unknown()
        model = self.bench.model_of(line.record["artifact"])
        return Forecast.of(model, self.bench.example_inputs, weights_known=True)

    def _asked(self, stage: RecipeStage) -> Forecast:
        incoming = self.incoming(stage)
        if incoming.model is None:
            return Forecast.unknown()
        try:
            return stage.cls.forecast(incoming, stage.options)
        except StageError as error:
            # with weights that are none of the run's own this need not come to pass
            if incoming.exact and incoming.weights_known:
                self.faults[stage.id] = error.message
            return Forecast.unknown()


def shapes(outlook: Outlook, bench: Workbench) -> tuple[Outlook, dict[str, Forecast]]:
    """Fill in params, MACs, output shape and disk; also the forecasts, for :func:`mcomp.engine.probe.probe`.

    Args:
        outlook: what is known without torch.
        bench: of the same recipe and store.

    Raises:
        PreflightError: the data is missing, or the model does not take it.
    """
    bench.preflight(outlook.plan)
    startup = time.process_time()  # this process has done by now what a run does before its first stage
    forecaster = Forecaster(outlook.plan, bench)
    forecasts = forecaster.run()
    lines, costs = [], dict(outlook.costs)
    for line in outlook.plan.stages:
        found = forecasts[line.stage.id]
        if line.stage.id in forecaster.faults:
            line = replace(line, reason=f"{line.reason}; fails: {forecaster.faults[line.stage.id]}")
        if line.record is None:
            line = replace(line, params=_cost(found.params), macs=_cost(found.macs))
        costs[line.stage.id] = _with_disk(replace(costs[line.stage.id], shape=_shape(found)), line, found)
        lines.append(line)
    return replace(outlook.with_lines(lines, costs), startup_seconds=startup), forecasts


def _cost(span: tuple[int, int] | None) -> Cost:
    return span[0] if span is not None and span[0] == span[1] else span


def _shape(found: Forecast) -> tuple[int, ...] | None:
    from mcomp.metrics import output_shape

    return None if found.model is None else output_shape(found.model, found.example_inputs)


def _with_disk(cost: StageCosts, line: PlannedStage, found: Forecast) -> StageCosts:
    """The cost with what the stage writes: its tensors, its deployed files, and snapshots while it trains."""
    work = line.stage.cls.work(line.stage.options)
    if not runs(line) or found.model is None or found.params is None:
        return cost
    tensors = max(_tensor_bytes(model) for model in (*found.corners, found.model))
    files = 0 if work is None else sum(int(size * found.params[1]) + _GRAPH_BYTES for size in work.files)
    scratch = 0
    if work is not None and work.training is not None:
        moments = 1 if work.training.optimizer == "sgd" else 2
        scratch = _SNAPSHOTS * (tensors + 4 * moments * found.params[1])
    return replace(cost, disk_bytes=tensors + _MANIFEST_BYTES + files, scratch_bytes=scratch)


def _tensor_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
