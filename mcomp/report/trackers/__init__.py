"""Runs sent on to experiment trackers: TensorBoard, MLflow, Weights & Biases.

A tracker is a listener of a run's events, and needs nothing else of the engine::

    from pathlib import Path
    from mcomp import Engine, Recipe
    from mcomp.report.trackers import trackers

    store = Path(".mcomp")
    with trackers(["tensorboard", "mlflow=http://tracking.lab:5000"], store) as listeners:
        Engine(store, listeners=listeners).apply(Recipe.load("recipe.yaml"))

All three log the same, under the same names: for every stage ``<stage>/epoch_loss``, ``epoch_top1``, ``epoch_val_top1``
and ``epoch_lr`` over the epochs of the whole run; then its final figures ``<stage>/top1``, ``<stage>/params`` … and its
gates; the resolved recipe; and how the run ended.

Codes of this room::

    MC613  a tracker's package is not installed
    MC614  an unknown tracker
    MC615  a tracker cannot be opened
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.errors import UsageError
from mcomp.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from mcomp.engine.events import Listener
    from mcomp.report.trackers.base import Tracker

#: Tracker to its class, imported when it is asked for.
_HOMES = {
    "tensorboard": ("mcomp.report.trackers.tensorboard_tracker", "TensorBoardTracker"),
    "mlflow": ("mcomp.report.trackers.mlflow_tracker", "MlflowTracker"),
    "wandb": ("mcomp.report.trackers.wandb_tracker", "WandbTracker"),
}


@contextmanager
def trackers(specs: Sequence[str], store_root: Path) -> Iterator[list[Listener]]:
    """Open the trackers that were asked for; every one is closed again, whatever happens.

    Args:
        specs: ``tensorboard[=DIR]``, ``mlflow[=URI]`` or ``wandb[=PROJECT]``.
        store_root: of the store that the runs go to; what a tracker writes to disk is put there by default.

    Yields:
        One listener per spec.

    Raises:
        UsageError: MC614, no such tracker.
        BackendMissingError: MC613, its package is not installed.
        PreflightError: MC615, the place it should write to cannot be opened.
    """
    chosen = [_parsed(spec) for spec in specs]  # a misspelt one is found before any other is opened
    with ExitStack() as stack:
        opened: list[Listener] = [
            stack.enter_context(closing(_open(name, value, store_root))) for name, value in chosen
        ]
        yield opened


def _parsed(spec: str) -> tuple[str, str | None]:
    name, _, value = spec.partition("=")
    if name not in _HOMES:
        raise UsageError(
            f"unknown tracker `{name}`",
            code="MC614",
            hint=did_you_mean(name, _HOMES) or f"the trackers are {listed(_HOMES)}",
        )
    return name, value or None


def _open(name: str, value: str | None, store_root: Path) -> Tracker:
    module, cls = _HOMES[name]
    tracker: Tracker = getattr(importlib.import_module(module), cls)(value, store_root)
    return tracker
