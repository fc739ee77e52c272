"""The `search` stage at work: a space, an optimiser, someone who tries candidates, and what came of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any

from mcomp.errors import InterruptedRun, StageError, plural
from mcomp.metrics.threads import one_thread
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.greedy import Greedy
from mcomp.search.local_workers import LocalWorkers
from mcomp.search.network_costs import Times
from mcomp.search.network_space import Budgets, NetworkSpace, network_space
from mcomp.search.optuna_samplers import SAMPLERS, OptunaOptimizer
from mcomp.search.recorded import record_choice, recorded_sensitivity
from mcomp.search.registry import build_optimizer
from mcomp.search.study import Study, Trial, Workers
from mcomp.stages.base import Metrics, StageContext, StageResult
from mcomp.stages.searching.counted import as_counted, beyond
from mcomp.stages.searching.options import SearchOptions
from mcomp.stages.searching.outcome import Outcome, choice_in
from mcomp.stages.searching.sample import judging_sample
from mcomp.stages.searching.setup import SearchSetup, fingerprint
from mcomp.store.tensors import content_digest, state_digest

_SAVE_EVERY = 1.0  # seconds


class SearchRun:
    """One run of the stage.

    Args:
        ctx: of the stage.
        options: of the stage.
    """

    def __init__(self, ctx: StageContext, options: SearchOptions) -> None:
        self.ctx, self.options = ctx, options
        self._saved = time.monotonic()
        self._begun = self._saved, 0  # when, and with how many looks
        state = ctx.restore()
        with one_thread():  # scores of channels are sums too
            self.pruning = self._cuts()
            self.known = self._space(state)
        self.study = Study(
            self._optimizer(),
            options.candidates,
            options.objectives,
            self.known.costs_of,
            proxy=options.proxy,
            trials=self._restored(state),
            on_trial=self._on_trial,
            should_stop=ctx.should_stop,
            keeps=self.known.keeps,
        )

    def result(self) -> StageResult:
        """Search, and hand the model on with the choice noted on it.

        Raises:
            StageError: MC497, no candidate could be made.
            InterruptedRun: a signal asked to stop; the trials so far are kept.
        """
        ctx = self.ctx
        self._begun = time.monotonic(), len(self.study.trials)
        with self._workers() as workers:
            ended = self.study.run(workers)
            self._save()
            if not ended:
                raise InterruptedRun(int(ctx.should_stop()))
        outcome = Outcome(self.study, self.known, self._chosen(), {} if self.pruning is None else self._how_cut())
        for line in outcome.legacy_lines():
            ctx.log(line)
        how = None if self.pruning is None else {**self._how_cut(), "shares": outcome.shares}
        record_choice(ctx.model, outcome.choice, pruning=how)
        metrics: Metrics = {**ctx.evaluate(), **outcome.metrics()}
        return StageResult(
            model=ctx.model,
            metrics=metrics,
            files=outcome.write(ctx.work_dir),
            notes=outcome.notes(),
            details=outcome.details(),
        )

    def _cuts(self) -> RepeatedPruning | None:
        if self.options.keep is None:
            return None
        return RepeatedPruning(self.ctx.model, self.ctx.example_inputs, **self._how_cut(), seed=self.ctx.seed)

    def _how_cut(self) -> dict[str, Any]:
        options = self.options
        return {
            "regular": options.regular,
            "importance": options.importance,
            "min_channels": options.min_channels,
            "ignore": list(options.ignore),
        }

    def _space(self, state: Mapping[str, Any] | None) -> NetworkSpace:
        options, found = self.options, recorded_sensitivity(self.ctx.model)
        return network_space(
            self.ctx.model,
            self.ctx.example_inputs,
            w_bits=_whole(options.w_bits),
            a_bits=_whole(options.a_bits),
            keep=None if options.keep is None else (options.keep[0], options.keep[1]),
            first_last_bits=options.first_last_bits,
            pins={name: pin.model_dump(exclude_none=True) for name, pin in options.pins.items()},
            pruning=self.pruning,
            budgets=Budgets(**options.budgets.model_dump()),
            time="latency_ms" in options.objectives,
            times=None if state is None or state.get("times") is None else Times(*state["times"]),
            points=None if found is None else found.points(),
        )

    def _optimizer(self) -> Any:
        options, space = self.options, self.known.space
        start = [] if options.start is None else [space.genome(choice_in(Path(options.start), self.known))]
        if options.algorithm in SAMPLERS:
            return OptunaOptimizer(
                options.algorithm,
                space,
                seed=self.ctx.seed,
                population=options.population,
                start=start,
                objectives=len(options.objectives),
            )
        built = build_optimizer(
            options.algorithm, space, seed=self.ctx.seed, population=options.population, start=start
        )
        if isinstance(built, Greedy) and built.measuring >= options.candidates:
            raise StageError(
                f"`greedy` lowers each gene alone before it keeps a budget: that takes {built.measuring} candidates",
                code="MC497",
                why=f"`candidates` is {options.candidates}",
                hint=f"set `candidates` to {2 * built.measuring} say, or take `algorithm: ga`",
            )
        return built

    @cached_property
    def setup(self) -> SearchSetup:
        """What every candidate is made of."""
        ctx, options = self.ctx, self.options
        sample = judging_sample(
            ctx.require_data(), norm_batches=options.norm_batches, images=options.images, seed=ctx.seed
        )
        quantization = {"scheme": "lsq"} if options.quantizes else None
        how = None if self.pruning is None else {**self._how_cut(), "seed": ctx.seed}
        said: dict[str, Any] = {
            "pruning": how,
            "quantization": quantization,
            "images": options.images,
            "seed": ctx.seed,
        }
        said |= {"norm_batches": options.norm_batches, "algorithm": options.algorithm}
        return SearchSetup(
            ctx.model,
            ctx.example_inputs,
            sample.batches,
            sample.targets,
            sample.images,
            sample.labels,
            [(gene.layer, gene.kind) for gene in self.known.space.genes],
            how,
            quantization,
            ctx.device,
            ctx.base_dir,
            fingerprint(
                self.known.space.fingerprint(),
                said,
                [state_digest(ctx.model.state_dict()), content_digest(sample.images), content_digest(sample.labels)],
            ),
        )

    @contextmanager
    def _workers(self) -> Iterator[Workers]:
        """Whoever the options ask to try candidates."""
        options, ctx = self.options, self.ctx
        if options.study is not None:
            from mcomp.stages.searching.joined import joined_workers

            with joined_workers(self.setup, options, ctx) as joined:
                yield joined
        elif options.ray is not None:
            from mcomp.stages.searching.ray_workers import ray_workers

            with ray_workers(self.setup, options.ray, ctx.work_dir / "setup") as spread:
                yield spread
        elif options.workers == 1:
            yield self.setup.evaluator(self.pruning)
        else:
            folder = ctx.work_dir / "setup"
            self.setup.write(folder)
            with LocalWorkers(
                worker_command(folder), options.workers, ctx.work_dir, worker_environment(), ctx.log
            ) as local:
                yield local

    def _on_trial(self, trial: Trial) -> None:
        first = "proxy" if self.options.proxy else "full"
        tried = sum(one.level == first for one in self.study.trials)
        best = self.study.best
        more = {} if best is None or best.fitness is None else {"best_top1": best.fitness}
        looks = len(self.study.trials) - self._begun[1]
        left = self.options.candidates - tried
        more["eta_s"] = (time.monotonic() - self._begun[0]) / looks * left * len(self.study.trials) / max(tried, 1)
        self.ctx.report("step", unit="candidate", step=tried, steps=self.options.candidates, **more)
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        self.ctx.save(
            {
                "trials": json.dumps([trial.as_dict() for trial in self.study.trials]),
                "study": self.setup.study,
                "times": None if self.known.times is None else [*astuple(self.known.times)],
                "step": len({trial.number for trial in self.study.trials}),
                "steps": self.options.candidates,
            }
        )
        self._saved = time.monotonic()

    def _restored(self, state: Mapping[str, Any] | None) -> list[Trial]:
        """Trials of an earlier run of this very action."""
        if state is None:
            return []
        found = [Trial.from_dict(held) for held in json.loads(state["trials"])]
        self.ctx.log(f"{plural(len(found), 'look')} at candidates of an earlier run are known")
        return found

    def _chosen(self) -> Trial:
        """The best of those looked at closely whose network keeps the budgets as counted, and as timed."""
        limit = self.options.budgets.latency_ms
        ranked = sorted(self.study.close, key=lambda trial: trial.rank, reverse=True)
        if not ranked:
            errors = sorted({trial.error for trial in self.study.trials if trial.error})
            raise StageError(
                "no candidate could be made",
                code="MC497",
                why="; ".join(errors[:3]),
                hint="search fewer kinds of choices, or leave layers whole with `ignore`",
            )
        inputs = self.ctx.example_inputs
        if limit is not None and self.pruning is not None:
            from mcomp.stages.searching.latency import first_that_is_fast

            ranked = [first_that_is_fast(ranked, self.known, inputs, limit)]
        counted = (as_counted(trial, self.known, inputs) for trial in ranked)
        best = next(counted)
        return (
            best
            if not beyond(best, self.known)
            else next((one for one in counted if not beyond(one, self.known)), best)
        )


def worker_command(folder: Path) -> list[str]:
    """Starts a worker that reads the setup in ``folder``; the code behind the model is trusted already."""
    return [sys.executable, "-m", "mcomp.stages.searching.worker", str(folder), "--trust"]


def worker_environment() -> dict[str, str]:
    """One thread per worker, and the same modules as here."""
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}


def _whole(ends: list[int] | None) -> tuple[int, int] | None:
    return None if ends is None else (ends[0], ends[1])
