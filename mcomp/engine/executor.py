"""Run a plan: one stage after another, each behind its key's lock, each committed before the next."""

from __future__ import annotations

import errno
import signal
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.engine.damage import DamagedArtifactError
from mcomp.engine.events import EventLog, Listener
from mcomp.engine.gates import check_gate
from mcomp.engine.keys import KeyMaker
from mcomp.engine.planning import Plan, PlannedStage, plan_stage
from mcomp.engine.results import RunResult, RunStatus, StageOutcome, StageStatus
from mcomp.engine.signals import StopFlag, stop_on_signals
from mcomp.errors import InterruptedRun, McompError, StageError
from mcomp.store.atomic import storage_error

if TYPE_CHECKING:
    from mcomp.engine.workbench import Workbench
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store
    from mcomp.store.runs import Run


class Execution:
    """One call of ``apply``. Use once."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        keys: KeyMaker,
        plan: Plan,
        listeners: Sequence[Listener],
        *,
        wait: bool,
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.keys = keys
        self.plan = plan
        self.listeners = listeners
        self.wait = wait
        self.outcomes: list[StageOutcome] = []
        self._bench: Workbench | None = None
        self._error: dict[str, Any] | None = None

    def run(self) -> RunResult:
        """Run, and write the run's record whatever happens after preflight."""
        started = time.perf_counter()
        if not self.plan.all_hits:
            self.bench.preflight()
        last_key = self.plan.stages[-1].key or self.plan.stages[0].key or ""
        run = self.store.new_run(self.recipe.name, last_key[:8])
        run.write_text("recipe.lock.yaml", self.recipe.lock())
        with closing(EventLog(run.path / "events.jsonl", self.listeners)) as self.events:
            plan = [{"id": planned.stage.id, "status": planned.status} for planned in self.plan.stages]
            self.store.notify = lambda text: self.events.emit("notice", text=text)
            self.events.emit("run_started", run=run.id, name=self.recipe.name, plan=plan)
            status, code = self._guarded(run)
            self._skip_rest()
            self.keys.remember_code(self.store.root / "cache")
            result = RunResult(
                run=run.id,
                name=self.recipe.name,
                status=status,
                exit_code=code,
                seconds=time.perf_counter() - started,
                stages=self.outcomes,
                error=self._error,
                folder=str(run.path),
            )
            run.write_json("result.json", result.as_dict())
            self.events.emit("run_finished", result=result.as_dict(), folder=str(run.path), error=self._error)
        return result

    def _guarded(self, run: Run) -> tuple[RunStatus, int]:
        """Run the stages; a failure becomes the run's status, its traceback a file."""
        try:
            with stop_on_signals(self.events.later) as stop:
                try:
                    return self._stages(stop)
                except (InterruptedRun, KeyboardInterrupt) as error:
                    number = error.signal_number if isinstance(error, InterruptedRun) else stop() or signal.SIGINT
                    return "interrupted", 128 + number
        except McompError as error:
            self._error = error.as_dict() | {"text": str(error)}
            run.write_text("traceback.txt", traceback.format_exc())
            return "failed", error.exit_code

    @property
    def bench(self) -> Workbench:
        """The half of the work that needs torch, imported when the first stage misses."""
        if self._bench is None:
            from mcomp.engine.workbench import Workbench

            self._bench = Workbench(self.recipe, self.store, self.keys)
        return self._bench

    def _stages(self, stop: StopFlag) -> tuple[RunStatus, int]:
        for _ in self.recipe.stages:
            try:
                return self._pass(stop)
            except DamagedArtifactError as error:
                # its stage is no hit any more, so another pass makes it anew
                self.outcomes.clear()
                self.events.emit("notice", text=f"{error.message} ({error.why}); the stage that made it runs again")
        return self._pass(stop)

    def _pass(self, stop: StopFlag) -> tuple[RunStatus, int]:
        upstream: str | None = None
        for stage in self.recipe.stages:
            if stop():
                raise InterruptedRun(stop())
            self.events.emit("stage_started", stage.id, uses=stage.uses)
            outcome = self._stage(stage, upstream, stop)
            self.outcomes.append(outcome)
            metrics = {done.id: done.metrics for done in self.outcomes}
            outcome.gates = [found for gate in stage.gates for found in check_gate(gate, stage.id, metrics)]
            self.events.emit("stage_finished", stage.id, outcome=outcome.as_dict())
            if not all(gate.passed for gate in outcome.gates):
                return "gate_failed", 6
            upstream = outcome.artifact
        return "ok", 0

    def _stage(self, stage: RecipeStage, upstream: str | None, stop: StopFlag) -> StageOutcome:
        artifacts = {done.id: done.artifact for done in self.outcomes if done.artifact is not None}
        planned = plan_stage(stage, upstream, artifacts, self.store, self.keys)
        if planned.status == "hit":
            return self._outcome(planned, "hit")
        assert planned.key is not None
        started = time.perf_counter()
        key = planned.key

        def waiting(process: int) -> None:
            text = f"waiting for process {process}, which computes `{stage.id}`"
            self.events.emit("notice", stage.id, text=text)

        with self.store.lock(key, wait=self.wait, on_wait=waiting, should_stop=stop):
            planned = plan_stage(stage, upstream, artifacts, self.store, self.keys)
            if planned.status == "hit":  # another process finished it while we waited
                return self._outcome(planned, "hit")
            try:
                record = self.bench.execute(planned, upstream, self.events, stop, self.outcomes)
            except (McompError, KeyboardInterrupt):
                self._abandon(stage, key, started)
                raise
            except (Exception, SystemExit) as error:  # a plug-in must not end the run with an exit code of its own
                self._abandon(stage, key, started)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    raise storage_error(error, Path(error.filename or self.store.root)) from error
                raise StageError(
                    f"`{stage.id}` failed: {type(error).__name__}: {error}",
                    code="MC400",
                    hint="the whole traceback is in the run's folder, and printed with `--traceback`",
                ) from error
            status: StageStatus = "resumed" if planned.status == "resume" else "run"
            return self._outcome(PlannedStage(stage, "run", "", key, None, record), status)

    def _abandon(self, stage: RecipeStage, key: str, started: float) -> None:
        self.outcomes.append(StageOutcome(stage.id, stage.uses, "failed", key, seconds=time.perf_counter() - started))

    def _skip_rest(self) -> None:
        for stage in self.recipe.stages[len(self.outcomes) :]:
            self.outcomes.append(StageOutcome(stage.id, stage.uses, "skipped"))

    def _outcome(self, planned: PlannedStage, status: StageStatus) -> StageOutcome:
        record = planned.record
        assert record is not None
        folder = self.store.object(record["artifact"])
        assert folder is not None
        return StageOutcome(
            id=planned.stage.id,
            uses=planned.stage.uses,
            status=status,
            key=planned.key,
            artifact=record["artifact"],
            seconds=0.0 if status == "hit" else record["seconds"],
            metrics=dict(record["metrics"]),
            files={name: str(folder / relative) for name, relative in record["files"].items()},
            notes=list(record["notes"]),
            details=dict(record.get("details", {})),
        )
