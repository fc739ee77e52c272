"""Run a plan: one stage after another, each behind its key's lock, each committed before the next."""

from __future__ import annotations

import errno
import signal
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.engine.damage import DamagedArtifactError, present
from mcomp.engine.events import EventLog, Listener
from mcomp.engine.forecast_costs import outlook
from mcomp.engine.keys import KeyMaker
from mcomp.engine.planning import Plan, PlannedStage, Walk
from mcomp.engine.results import Ending, RunResult, RunStatus, StageOutcome, StageStatus
from mcomp.engine.shelf import Shelf
from mcomp.engine.signals import StopFlag
from mcomp.errors import InterruptedRun, McompError, StageError, StoreError
from mcomp.store.atomic import UNWRITABLE, storage_error

if TYPE_CHECKING:
    from mcomp.engine.workbench import Workbench
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store
    from mcomp.store.runs import Run


class Execution:
    """One run of a recipe. Use once.

    Args:
        recipe: the validated recipe.
        store: where it is kept.
        keys: of the recipe.
        plan: what was planned just now.
        listeners: called with every event.
        shelf: what is shared with other runs of this process.
        stop: raised by a signal.
        wait: wait for a key that another process is computing.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        keys: KeyMaker,
        plan: Plan,
        listeners: Sequence[Listener],
        *,
        shelf: Shelf,
        stop: StopFlag,
        wait: bool,
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.keys = keys
        self.plan = plan
        self.listeners = listeners
        self.shelf = shelf
        self.stop = stop
        self.wait = wait
        self.outcomes: list[StageOutcome] = []
        self._ended = self._unrecorded = ""
        self._error: dict[str, Any] | None = None

    def run(self) -> RunResult:
        """Run, and write the run's record whatever happens after preflight."""
        started = time.perf_counter()
        if not self.plan.all_hits:
            with self.stop.at_once():
                outlook(self.plan, self.store).refuse_impossible()
                self.bench.preflight(self.plan)
        last_key = self.plan.stages[-1].key or self.plan.stages[0].key or ""
        run = self._new_run(last_key[:8])
        with closing(EventLog(run.path / "events.jsonl" if run else None, self.listeners)) as self.events:
            notify, self.store.notify = self.store.notify, lambda text: self.events.emit("notice", text=text)
            self.stop.notice = self.events.later
            try:
                self._announce(run)
                status, code = self._guarded(run)
                self.stop.shield()
            finally:
                self.store.notify = notify
            self._skip_rest()
            if run:
                self.keys.remember_code(self.store.root / "cache")
            result = RunResult(
                run=run.id if run else "",
                name=self.recipe.name,
                status=status,
                exit_code=code,
                seconds=time.perf_counter() - started,
                stages=self.outcomes,
                error=self._error,
                folder=str(run.path) if run else "",
                sweep=dict(self.recipe.sweep_values),
            )
            if run:
                run.write_json("result.json", result.as_dict())
            self.events.emit("run_finished", result=result.as_dict(), folder=result.folder, error=self._error)
        return result

    def _new_run(self, key8: str) -> Run | None:
        """The folder of this run; None where everything is cached and the store can only be read."""
        try:
            run = self.store.new_run(self.recipe.name, key8)
            run.write_text("recipe.lock.yaml", self.recipe.lock())
        except StoreError as error:
            if not self.plan.all_hits or error.code not in UNWRITABLE:
                raise
            self._unrecorded = f"this run is not recorded: {error.message}"
            return None
        return run

    def _announce(self, run: Run | None) -> None:
        sweep, name = dict(self.recipe.sweep_values), self.recipe.name
        plan = [planned.as_dict() for planned in self.plan.stages]
        known = {"run": run.id, "folder": str(run.path)} if run else {"run": "", "folder": ""}
        self.events.emit("run_started", name=name, sweep=sweep, plan=plan, **known)
        if self._unrecorded:
            self.events.emit("notice", text=self._unrecorded)

    def _guarded(self, run: Run | None) -> tuple[RunStatus, int]:
        """Run the stages; a failure becomes the run's status, its traceback a file."""
        try:
            return self._stages()
        except (InterruptedRun, KeyboardInterrupt) as error:
            number = error.signal_number if isinstance(error, InterruptedRun) else self.stop() or signal.SIGINT
            return "interrupted", 128 + number
        except McompError as error:
            # what a preflight error says of itself, that nothing was run, is not so here
            self._error = error.as_dict() | {"text": McompError.__str__(error)}
            if run:
                run.write_text("traceback.txt", traceback.format_exc())
            return "failed", error.exit_code

    @cached_property
    def bench(self) -> Workbench:
        """The half of the work that needs torch, imported when the first stage misses."""
        from mcomp.engine.workbench import Workbench

        return Workbench(self.recipe, self.store, self.keys, self.shelf)

    def _stages(self) -> tuple[RunStatus, int]:
        for _ in self.recipe.stages:
            try:
                return self._pass()
            except DamagedArtifactError as error:
                # its stage is no hit any more, so another pass makes it anew
                self.outcomes.clear()
                self.events.emit("notice", text=f"{error.message} ({error.why}); the stage that made it runs again")
        return self._pass()

    def _pass(self) -> tuple[RunStatus, int]:
        walk = Walk(self.recipe, self.store, self.keys)
        for entry in self.recipe.stages:
            self.stop.check()
            planned, outcome = self._stage(entry, walk)
            self.outcomes.append(outcome)
            walk.note(entry, planned)
            try:
                if planned.status != "skip":
                    outcome.gates = walk.gates(entry, planned)
            finally:
                for gate in outcome.gates:
                    self.events.emit("gate", entry.id, gate=gate.as_dict())
                self.events.emit("stage_finished", entry.id, outcome=outcome.as_dict())
            if planned.ends:
                self._ended = walk.ended
                return ("ok", 0) if planned.ends == "stop" else self._refused(entry, planned)
            if not all(gate.passed for gate in outcome.gates):
                return "gate_failed", 6
        self.stop.check()  # a signal that came while the last stage was committed is a signal all the same
        return "ok", 0

    def _refused(self, entry: RecipeStage, planned: PlannedStage) -> tuple[RunStatus, int]:
        """End the run as its recipe asks for where a condition does not hold: like a failed gate."""
        error = StageError(
            f"the condition of `{entry.id}` does not hold, and its `otherwise` is to fail",
            code="MC503",
            why=planned.unmet,
            hint="relax `when`, or write `otherwise: skip` to go on without this stage",
        )
        self._error = error.as_dict() | {"text": str(error)}
        return "gate_failed", 6

    def _stage(self, entry: RecipeStage, walk: Walk) -> tuple[PlannedStage, StageOutcome]:
        started, key = time.perf_counter(), None
        try:
            planned = walk.look(entry)
            key = planned.key
            self.events.emit("stage_started", entry.id, uses=planned.stage.uses)
            if planned.status == "skip":
                return planned, self._skipped(entry, planned)
            if planned.status == "hit":
                return planned, self._outcome(planned, "hit")
            return self._locked(entry, planned, walk)
        except DamagedArtifactError:
            raise
        except (McompError, KeyboardInterrupt) as error:
            self._abandon(entry, key, started, error)
            raise

    def _locked(self, entry: RecipeStage, planned: PlannedStage, walk: Walk) -> tuple[PlannedStage, StageOutcome]:
        """Compute a stage as the only process that does."""
        assert planned.key is not None

        def waiting(process: int) -> None:
            text = f"waiting for process {process}, which computes `{entry.id}`"
            self.events.emit("notice", entry.id, text=text)

        with self.store.lock(planned.key, wait=self.wait, on_wait=waiting, should_stop=self.stop):
            planned = walk.look(entry)
            if planned.status == "hit":  # another process finished it while we waited
                return planned, self._outcome(planned, "hit")
            status: StageStatus = "run"
            if planned.status == "resume":
                status = "resumed"
                self.events.emit("notice", entry.id, text=f"resuming `{entry.id}` {planned.reason}")
            done = replace(planned, status="run", record=self._executed(planned, walk))
            return done, self._outcome(done, status)

    def _executed(self, planned: PlannedStage, walk: Walk) -> dict[str, Any]:
        try:
            return self.bench.execute(planned, walk, self.events, self.stop)
        except McompError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in must not end the run with an exit code of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise storage_error(error, Path(error.filename or self.store.root)) from error
            raise StageError(
                f"`{planned.stage.id}` failed: {type(error).__name__}: {error}",
                code="MC400",
                hint="the whole traceback is in the run's folder, and printed with `--traceback`",
            ) from error

    def _abandon(self, entry: RecipeStage, key: str | None, started: float, error: BaseException) -> None:
        seconds, ending = time.perf_counter() - started, _ending(error)
        outcome = StageOutcome(entry.id, entry.uses, "failed", key, seconds=seconds, source=entry.source, ending=ending)
        self.outcomes.append(outcome)
        self.events.emit("stage_finished", entry.id, outcome=outcome.as_dict())

    def _skip_rest(self) -> None:
        for entry in self.recipe.stages[len(self.outcomes) :]:
            outcome = StageOutcome(entry.id, entry.uses, "skipped", source=entry.source, ending="not run")
            outcome.notes = [self._ended] if self._ended else []
            self.outcomes.append(outcome)

    def _skipped(self, entry: RecipeStage, planned: PlannedStage) -> StageOutcome:
        notes = [planned.note]
        if entry.gates:
            notes.append("it reported nothing that its gates could be held against")
        return StageOutcome(entry.id, entry.uses, "skipped", notes=notes, source=entry.source)

    def _outcome(self, planned: PlannedStage, status: StageStatus) -> StageOutcome:
        record = planned.record
        assert record is not None
        folder = present(self.store, record["artifact"])
        return StageOutcome(
            id=planned.stage.id,
            uses=planned.stage.uses,
            status=status,
            key=planned.key,
            artifact=record["artifact"],
            seconds=0.0 if status == "hit" else record["seconds"],
            metrics=dict(record["metrics"]),
            files={name: str(folder / relative) for name, relative in record["files"].items()},
            notes=[*([planned.note] if planned.note else []), *record["notes"]],
            details=dict(record.get("details", {})),
            source=planned.stage.source,
        )


def _ending(error: BaseException) -> Ending | None:
    """What ended a stage, where that was no fault of its own."""
    if isinstance(error, InterruptedRun | KeyboardInterrupt):
        return "interrupted"
    return "waiting refused" if isinstance(error, StoreError) and error.code == "MC301" else None
