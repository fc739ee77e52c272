"""Weights & Biases: one run each, online with an account, or offline with ``WANDB_MODE=offline``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.engine.summary import verdict_text
from mcomp.report.trackers.base import TrackedRun, Tracker, not_opened, required, status_text
from mcomp.report.trackers.parameters import flat_parameters

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run


class WandbTracker(Tracker):
    """Writes to ``PROJECT``, by default ``mcomp``; what it keeps on disk lies in ``WANDB_DIR``, else in the store.

    A run that is offline is sent later with ``wandb sync``.
    """

    name = "wandb"

    def __init__(self, target: str | None, store_root: Path) -> None:
        super().__init__(target, store_root)
        self._wandb: Any = required("wandb", "wandb", "wandb")
        if self._wandb.Settings().mode == "online":
            try:
                self._wandb.login()
            except Exception as error:  # no key, a wrong one, no network
                hint = "run `wandb login` once, or set WANDB_MODE=offline to keep the run on this disk"
                raise not_opened("wandb", f"`{self._wandb.Settings().base_url}`", error, hint) from error
        self._wandb_run: Run | None = None

    def begin(self, run: TrackedRun) -> None:
        """Start the run; the recipe is its configuration."""
        folder = Path(os.environ.get("WANDB_DIR") or self.store_root)
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb_run = self._wandb.init(
            project=self.target or "mcomp",
            dir=str(folder),
            name=run.id,
            group=run.name,
            config={**flat_parameters(run.lock), **{f"sweep.{path}": value for path, value in run.sweep.items()}},
            # a run of the person's own stays as it is, and nobody takes over our output
            settings=self._wandb.Settings(console="off", silent=True, reinit="create_new"),
        )
        self._tracked.define_metric("epoch")
        self._tracked.define_metric("*", step_metric="epoch")

    def scalars(self, stage: str, values: Mapping[str, float], epoch: int, time: float) -> None:
        """One metric per value, named ``<stage>/<name>``, over ``epoch``."""
        self._tracked.log({"epoch": epoch, **{f"{stage}/{name}": value for name, value in values.items()}})

    def outcome(self, outcome: dict[str, Any], time: float) -> None:
        """Status, gates and backends in the run's summary."""
        stage, summary = outcome["id"], self._tracked.summary
        summary[f"{stage}/status"] = outcome["status"]
        for number, gate in enumerate(outcome["gates"], 1):
            summary[f"{stage}/gate_{number}"] = verdict_text(gate)
        for name, text in outcome["metrics"].items():
            if isinstance(text, str):
                summary[f"{stage}/{name}"] = text

    def end(self, run: TrackedRun, status: str, result: dict[str, Any]) -> None:
        """Send the run's files and end it; anything but ``ok`` is a failed run."""
        tracked = self._tracked
        tracked.summary["status"] = status_text(result)
        for path in run.files:
            copied = shutil.copy(path, tracked.dir)  # wandb would link to it, and a store may be cleaned up
            tracked.save(copied, base_path=tracked.dir, policy="now")
        self._wandb_run = None
        tracked.finish(exit_code=result.get("exit_code", 1))

    def close(self) -> None:
        """End the run under way; after a failure, as a failed one."""
        super().close()
        if self._wandb_run is not None:
            tracked, self._wandb_run = self._wandb_run, None
            tracked.finish(exit_code=1)

    @property
    def _tracked(self) -> Run:
        assert self._wandb_run is not None
        return self._wandb_run
