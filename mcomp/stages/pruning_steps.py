"""The `prune` stage at work: one cut, or several with training between them that can be gone on with."""

from __future__ import annotations

import copy
import glob
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcomp.errors import StageError
from mcomp.pruning.targets import Target
from mcomp.pruning.whole_layers import left_whole, of_whole_layers
from mcomp.stages.base import Metrics, StageContext, StageResult
from mcomp.stages.ranked_channels import RankedChannels

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.pruning import PruneResult

# A ratio that is due must stay inside (0, 1).
_LEAST = 1e-6

Row = dict[str, Any]


class PruningSteps:
    """Where a run of the stage stands: the model, the step, and what the steps before it did.

    A snapshot is that of the training between two steps, with the surgery so far: both lead back to the same bits.

    Args:
        ctx: of the stage.
        options: of the stage.
    """

    def __init__(self, ctx: StageContext, options: Any) -> None:
        self.ctx, self.options = ctx, options
        self.model = ctx.model
        self.rows: list[Row] = []  # one per cut
        self.history: list[Row] = []  # one per epoch
        self.whole: dict[str, float] = {}  # figures of the unpruned network
        self.widths: dict[str, int] = {}  # of its layers
        self.shares: dict[str, float] = {}  # of its layers, where they are listed
        self.ranked = RankedChannels()  # what a ratio is of
        self.inherited = 0  # surgery entries that the model came with

    def result(self) -> StageResult:
        """Prune, train, prune again; hand on the model that the last cut made."""
        from mcomp.surgery import provenance

        self.inherited = len(provenance(self.model).log)
        snapshot = self._resumed()
        if snapshot is None:
            self._measure()
        steps, last = self.options.steps, None
        for step in range(len(self.rows) or 1, steps + 1):
            if snapshot is None:
                last = self._cut(step)
            if step < steps:
                self._train(step, snapshot)
            snapshot = None
        assert last is not None  # the last step only cuts
        return self._told(last)

    def _told(self, last: PruneResult) -> StageResult:
        before = self.widths
        after = {name: len(last.kept.get(name, range(width))) for name, width in last.widths.items()}
        metrics: Metrics = {
            **self.ctx.evaluate(last.model),
            "params": last.params_after,
            "macs": last.macs_after,
            "channels_kept": 100.0 * sum(after.values()) / sum(before.values()),
            "max_error": max(row["max_error"] for row in self.rows),
        }
        details: dict[str, Any] = {
            "layers": [{"layer": name, "before": width, "after": after[name]} for name, width in before.items()],
            "params_before": int(self.whole["params"]),
            "macs_before": int(self.whole["macs"]),
        }
        if self.options.steps > 1:
            details |= {"steps": self.rows, "history": self.history}
        return StageResult(model=last.model, metrics=metrics, notes=self._notes(last, after), details=details)

    def _notes(self, last: PruneResult, after: dict[str, int]) -> list[str]:
        """Of the whole schedule: a layer that the last step left as it was may have been cut before."""
        if self.options.steps == 1:
            return last.notes
        untouched = [name for name, width in self.widths.items() if after[name] == width]
        stuck = {name: why for name, why in self.ranked.stuck.items() if name in untouched}
        told: dict[str, list[str]] = {}
        for name, why in stuck.items():
            told.setdefault(why, []).append(name)
        others = of_whole_layers(last.notes, [name for name in untouched if name not in stuck])
        return [*others, *(left_whole(names, why) for why, names in told.items())]

    def _cut(self, step: int) -> PruneResult:
        from mcomp.pruning import prune

        ctx, options = self.ctx, self.options
        try:
            found = prune(
                self.model,
                ctx.example_inputs,
                seed=ctx.seed,
                batches=self._batches() if options.importance in ("taylor", "hessian") else (),
                **self._wanted(step),
                **self._how(),
            )
        except StageError as error:
            if error.code != "MC455" or options.steps == 1:
                raise
            raise self._out_of_reach(step, error) from error
        apart = self.ranked.channels_apart
        self.ranked.cut(found)
        if not self.rows:
            self.whole |= {"params": found.params_before, "macs": found.macs_before}
            self.widths = found.widths
        self.model = found.model
        self.rows.append(
            {
                "step": step,
                "channels": found.channels_after + apart,
                "params": found.params_after,
                "macs": found.macs_after,
                "max_error": found.max_error,
            }
        )
        if options.steps > 1:
            share = 100 * found.macs_after / self.whole["macs"]
            ctx.log(f"step {step} of {options.steps}: {share:.1f} % of the MACs left")
        return found

    def _out_of_reach(self, step: int, error: StageError) -> StageError:
        """What was asked for, not only where this step was to get to on the way."""
        target: Target | None = self.options.target()
        assert target is not None
        whole, asked = self.whole[target.kind], getattr(self.options, target.kind)
        figure = f" ({target.goal(whole):.0f} of {whole:.0f})" if target.share else ""
        return StageError(
            f"step {step} of {self.options.steps} on the way to `{target.kind}: {asked}`{figure}: {error.message}",
            code=error.code,
            why=error.why,
            hint=error.hint,
        )

    def _wanted(self, step: int) -> dict[str, Any]:
        """Arguments that say how much goes in this step."""
        options = self.options
        if options.steps == 1:
            return {name: getattr(options, name) for name in ("ratio", "macs", "params", "latency_ms", "keep", "prune")}
        wanted: dict[str, Any] = {}
        if self.shares:
            wanted["keep"] = self._counts(step)
        target: Target | None = options.target()
        if target is None:
            return wanted
        aim = target.after(step, options.steps, self.whole.get(target.kind, 1.0))
        if target.kind == "latency_ms":
            return wanted | {"latency_ms": aim.amount}
        if target.kind != "ratio":
            return wanted | {target.kind: max(round(aim.amount), 2)}  # a count is a whole number, and 1 may be a share
        # of the channels that are still there: rounding in earlier steps is made up for
        return wanted | {"ratio": min(max(1 - (1 - aim.amount) / self.ranked.left, _LEAST), 1 - _LEAST)}

    def _how(self) -> dict[str, Any]:
        """Arguments that are the same in every step, but for layers that a step with a ratio could not cut."""
        how: dict[str, Any] = self.options.how()
        return how | {"ignore": [*how["ignore"], *(glob.escape(name) for name in self.ranked.stuck)]}

    def _measure(self) -> None:
        """What the steps refer to: figures of the network that came in, and the shares that are listed."""
        options = self.options
        if options.steps == 1:
            return
        from mcomp.metrics import count, model_latency
        from mcomp.pruning.keep_lists import KeepList, keep_list
        from mcomp.pruning.structured import subject_of, traced

        inputs = self.ctx.example_inputs
        cost = count(self.model, inputs)
        self.whole |= {"params": cost.params, "macs": cost.macs}
        if options.latency_ms is not None:
            self.whole["latency_ms"] = model_latency(self.model, inputs, batch=1, threads=1).median_ms
        if options.keep or options.prune or options.ratio is not None:
            groups, told = traced(*subject_of(self.model, inputs), options.heads), KeepList()
            if options.keep or options.prune:
                told = keep_list(groups, options.keep, options.prune)
                self.shares = told.layers
            if options.ratio is not None:
                self.ranked = RankedChannels.of(groups, {*told.groups})

    def _counts(self, step: int) -> dict[str, int]:
        """What each listed layer keeps after this step: the same factor less in each."""
        from mcomp.pruning import trace
        from mcomp.pruning.keep_lists import layer_widths

        now = layer_widths(trace(self.model, self.ctx.example_inputs))
        if not self.widths:
            self.widths = now
        kept = {name: share ** (step / self.options.steps) * self.widths[name] for name, share in self.shares.items()}
        return {name: max(1, min(round(count), now[name])) for name, count in kept.items()}

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images as they are, the same in every step."""
        train = self.ctx.require_data().train
        return itertools.islice(train.batches(seed=self.ctx.seed, device=self.ctx.device), self.options.score_batches)

    def _train(self, step: int, snapshot: dict[str, Any] | None) -> None:
        """Train between two cuts, with epochs counted through and snapshots that hold the cuts as well."""
        from mcomp.stages.training_stage import fit_in

        settings = self.options.finetune
        before, epochs = (step - 1) * settings.epochs, (self.options.steps - 1) * settings.epochs

        def counted(fields: dict[str, Any]) -> dict[str, Any]:
            return fields | {"epoch": fields["epoch"] + before, "epochs": epochs} if "epoch" in fields else fields

        within = copy.copy(self.ctx)
        within.seed = self.ctx.seed + step
        within.report = lambda kind, **fields: self.ctx.report(kind, **counted(fields))
        within.save = lambda state: self.ctx.save(self._snapshot(state, before, epochs))
        within.restore = lambda: snapshot
        fitted = fit_in(within, self.model, settings)
        self.model = fitted.model
        self.history += [counted(row) for row in fitted.history]
        self.rows[-1] |= {name: value for name, value in fitted.history[-1].items() if name in ("loss", "val_top1")}

    def _snapshot(self, training: dict[str, Any], before: int, epochs: int) -> dict[str, Any]:
        from mcomp.surgery import provenance

        return {
            "epoch": training["epoch"] + before,
            "epochs": epochs,
            "step": training["step"],
            "steps": training["steps"],
            "training": training,
            "cuts": provenance(self.model).log[self.inherited :],
            "rows": self.rows,
            "history": self.history,
            "whole": self.whole,
            "widths": self.widths,
            "shares": self.shares,
            "ranked": self.ranked.state(),
        }

    def _resumed(self) -> dict[str, Any] | None:
        """Go to where the snapshot stands; the training's own part of it, or None where there is none."""
        from mcomp.pruning.channel_surgery import own_parameters, shared_copy
        from mcomp.surgery import provenance, replay
        from mcomp.training.snapshot import FORMAT

        snapshot = self.ctx.restore()
        if snapshot is None:
            return None
        training: dict[str, Any] = snapshot["training"]
        if training["format"] != FORMAT or "ranked" not in snapshot:
            self.ctx.log("the training snapshot is of another version of mcomp: pruning starts over")
            return None
        self.model = shared_copy(self.ctx.model)  # as a cut does: what came in stays as it is
        for entry in snapshot["cuts"]:
            log = provenance(self.model).log
            self.model = replay(self.model, entry, self.ctx.example_inputs)
            provenance(self.model).log = [*log, entry]
        own_parameters(self.model, self.ctx.model)
        self.rows, self.history = list(snapshot["rows"]), list(snapshot["history"])
        self.whole, self.widths, self.shares = snapshot["whole"], snapshot["widths"], snapshot["shares"]
        self.ranked = RankedChannels(**snapshot["ranked"])
        return training
