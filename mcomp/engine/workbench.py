"""The half of a run that needs torch: models, data, a stage's context, and its committed outcome."""

from __future__ import annotations

import json
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcomp import __version__
from mcomp.artifact import TENSORS, load_artifact, read_manifest, save_artifact
from mcomp.engine.damage import DamagedArtifactError, present
from mcomp.engine.events import EventLog, progress_of
from mcomp.engine.keys import KeyMaker
from mcomp.engine.metering import Effort, common_metrics
from mcomp.engine.model_fit import check_fit
from mcomp.engine.planning import Plan, PlannedStage, Walk
from mcomp.engine.result_check import check_answer, checked_result, unrecorded_change
from mcomp.engine.shelf import Shelf
from mcomp.engine.signals import StopFlag
from mcomp.engine.unfit import names_layers, refuse_unfit
from mcomp.errors import StoreError
from mcomp.stages.base import COMMON_METRICS, Metrics, StageContext, StageResult
from mcomp.store.atomic import storage_errors
from mcomp.store.digest import finite, sha256_json
from mcomp.store.logits import seeded_inputs
from mcomp.surgery import provenance
from mcomp.training.hardware import resolve_device, resolve_precision
from mcomp.training.malloc import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.data import Data
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store


#: Codes of an artifact that does not read back as it was written.
DAMAGE = frozenset({"MC311", "MC419", "MC312", "MC313", "MC315", "MC316"})
#: Those of them that no stage can bring about: the bytes are not those that were written.
DAMAGED_FILES = frozenset({"MC311", "MC312", "MC313"})


class Workbench:
    """Loads what a stage needs, runs it, and commits what it made."""

    def __init__(self, recipe: Recipe, store: Store, keys: KeyMaker, shelf: Shelf) -> None:
        self.recipe = recipe
        self.store = store
        self.keys = keys
        self.shelf = shelf
        keep_freed_memory()
        self.device = resolve_device(recipe.device)
        self.precision = resolve_precision(recipe.precision, self.device)
        self._latest: tuple[str, nn.Module] | None = None
        self._told: set[str] = set()

    @cached_property
    def data(self) -> Data:
        """The recipe's data, decoded once and kept beside the store."""
        return self.shelf.data(self.recipe, self.store.cache)

    @cached_property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two normalised samples."""
        return self.data.example_inputs

    def initial_model(self) -> nn.Module:
        """The model as the recipe names it, with its provenance filled in from the data."""
        from mcomp.models import build

        model = build(
            self.recipe.model,
            num_classes=self.data.num_classes,
            base_dir=self.recipe.base_dir,
            trust=self.recipe.trust,
            seed=self.recipe.seed,
            in_shape=self.data.in_shape,
        )
        origin = provenance(model)
        origin.input_shape = list(self.data.in_shape)
        origin.preprocessing = dict(self.data.preprocessing)
        origin.class_names = list(self.data.class_names)
        return model

    def preflight(self, plan: Plan) -> None:
        """Load the data, build the model, and pass two samples through it, before anything is written.

        Then ask the stages that would run whether they can work on the like of it.

        Raises:
            PreflightError: the model cannot take this data or has another number of outputs, or MC263, a stage cannot
                do what its options ask on this model.
        """
        asked = [line.stage for line in plan.stages if line.status in ("run", "resume")]
        if self.shelf.fits(self.recipe) and not any(names_layers(stage) for stage in asked):
            return
        model = self.initial_model()
        if not self.shelf.fits(self.recipe):
            check_fit(model, self.data, self.recipe, asked)
            self.shelf.remember_fit(self.recipe)
        refuse_unfit(model, asked, self.recipe)

    def model_of(self, artifact: str | None) -> nn.Module:
        """The model that a stage receives: the committed artifact, never what lay in memory before it."""
        if artifact is None:
            return self.initial_model()
        if self._latest is not None and self._latest[0] == artifact:
            model = self._latest[1]
            self._latest = None  # a stage may change its model in place: hand each copy out once
            return model
        return self._load(artifact)

    def _load(self, artifact: str) -> nn.Module:
        """Read an artifact back, weights and logits checked; what is damaged is set aside.

        Raises:
            DamagedArtifactError: it is gone or does not read back as it was written.
        """
        folder = present(self.store, artifact)
        try:
            return load_artifact(
                folder,
                trust=self.recipe.trust,
                base_dir=self.recipe.base_dir,
                on_change=partial(self._tell_of_other_code, folder),
            )
        except StoreError as error:
            if error.code not in DAMAGE:
                raise
            self.store.quarantine(artifact, error.message)
            raise DamagedArtifactError(artifact, error.message) from error

    def _tell_of_other_code(self, folder: Path, text: str) -> None:
        """One notice per run, and none where only comments and layout of the person's file are other than they were."""
        same = read_manifest(folder)["identity"].get("origin") == self._origin
        if not same and text not in self._told:
            self._told.add(text)
            self.store.notify(text)

    @cached_property
    def _origin(self) -> str:
        """Digest of how the recipe's own model is made, the tokens of the person's code in it."""
        return sha256_json(self.keys.root.model)

    def execute(self, planned: PlannedStage, walk: Walk, events: EventLog, stop: StopFlag) -> dict[str, Any]:
        """Run one stage and commit its artifact and action record; returns the record."""
        stage, key = planned.stage, planned.key
        assert key is not None
        assert planned.preimage is not None
        effort = Effort(self.device)
        reached: dict[str, int] = {}  # by the newest snapshot
        ctx = self._context(planned, walk, events, stop, self.store.work_dir(key), reached)
        result = checked_result(stage.uses, stage.cls().run(ctx, stage.options), ctx.work_dir)
        inputs = self.inputs_for(stage, result.model)
        artifact, files, answer = self._commit(stage.uses, result, inputs)
        # The next stage gets the model as it reads back from disk: what is cached is what was used.
        self._latest = (artifact, self._read_back(stage.uses, artifact, answer))
        metrics = {**self._common(result.model, artifact, inputs), **result.metrics}
        undeclared = set(result.metrics) - stage.cls.traits.metrics - COMMON_METRICS
        record: dict[str, Any] = {
            "format": 1,
            "stage": stage.uses,
            "artifact": artifact,
            "metrics": metrics,
            "files": files,
            "notes": [*result.notes, *_undeclared(stage.uses, undeclared)],
            "details": result.details,
            **effort.spent(),
            "training_steps": reached["epochs"] * reached["steps"] if {"epochs", "steps"} <= reached.keys() else None,
            "resumed": planned.status == "resume",
            "versions": {"mcomp": __version__, "torch": torch.__version__},
            "threads": torch.get_num_threads(),
            "preimage": planned.preimage,
            "code": self.keys.recorded(stage, planned.preimage),
        }
        plain: dict[str, Any] = json.loads(json.dumps(finite(record)))  # now as on every later hit
        self.store.put_action(key, plain)
        self.store.clear_work(key)
        return plain

    def _read_back(self, uses: str, artifact: str, answer: dict[str, Any]) -> nn.Module:
        """The committed model, which must answer as the live one did: ``answer`` is that one's fingerprint."""
        try:
            model = self._load(artifact)
            # the store may have held this object already, written by a stage that computed something else
            check_answer(model, present(self.store, artifact), answer)
        except DamagedArtifactError as error:
            if error.__cause__ is None or getattr(error.__cause__, "code", "") in DAMAGED_FILES:
                raise  # the disk's fault, not the stage's: it is made once more
            raise unrecorded_change(uses, error.why) from error
        except StoreError as error:
            raise unrecorded_change(uses, error.why or error.message) from error
        return model

    def _common(self, model: nn.Module, artifact: str, inputs: tuple[Tensor, ...]) -> Metrics:
        return common_metrics(model, inputs, (present(self.store, artifact) / TENSORS).stat().st_size)

    def inputs_for(self, stage: RecipeStage, model: nn.Module) -> tuple[Tensor, ...]:
        """Two inputs of ``model``: samples where the stage's key holds the data, else made-up ones of their shape."""
        shape = provenance(model).input_shape
        if stage.cls.traits.needs_data or shape is None:
            return self.example_inputs
        return seeded_inputs([{"shape": shape, "dtype": "float32"}])

    def _context(
        self,
        planned: PlannedStage,
        walk: Walk,
        events: EventLog,
        stop: StopFlag,
        work: Path,
        reached: dict[str, int],
    ) -> StageContext:
        from mcomp.store.snapshot import load_snapshot, save_snapshot

        stage = planned.stage
        earlier = {
            wanted: partial(self.model_of, walk.known[wanted].artifact)
            for wanted in stage.cls.reads(stage.options)
            if wanted in walk.known
        }
        files = work / "files"
        files.mkdir(exist_ok=True)

        def save(state: dict[str, Any]) -> None:
            save_snapshot(work, state, progress_of(state))
            reached.update(events.snapshot(stage.id, state))

        model = self.model_of(walk.given(stage).artifact)
        return StageContext(
            model=model,
            example_inputs=self.inputs_for(stage, model),
            data=self.data if stage.cls.traits.needs_data else None,
            work_dir=files,
            device=self.device,
            precision=self.precision,
            seed=self.keys.seed(stage),
            stage_id=stage.id,
            report=events.reporter(stage.id),
            log=lambda text: events.emit("log", stage.id, text=text),
            save=save,
            restore=lambda: load_snapshot(work, lambda text: events.emit("notice", stage.id, text=text)),
            should_stop=stop,
            earlier=earlier,
            base_dir=self.recipe.base_dir,
        )

    def _commit(
        self, uses: str, result: StageResult, inputs: tuple[Tensor, ...]
    ) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Digest, kept files and the live model's fingerprint."""
        with self.store.staging() as staging, storage_errors(staging):
            try:
                manifest = save_artifact(result.model, staging, inputs)
            except StoreError as error:
                if error.code != "MC319":
                    raise
                raise unrecorded_change(uses, error.message) from error
            # the same tensors under other code of the person's are another model
            manifest["identity"]["origin"] = self._origin
            kept: dict[str, str] = {}
            for name, path in result.files.items():
                target = staging / "files" / name
                target.parent.mkdir(exist_ok=True)
                shutil.copy2(path, target)
                kept[name] = f"files/{name}"
            manifest["hashed_files"] = sorted(kept.values())
            digest = self.store.commit(staging, manifest)
        return digest, kept, {"inputs": manifest["inputs"], "fingerprint": manifest["fingerprint"]}


def _undeclared(uses: str, names: set[str] | frozenset[str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(f"`{name}`" for name in sorted(names))
    return [f"`{uses}` reported {listed} without declaring it in its traits, so no gate can name it"]
