"""All that trying a candidate needs, in memory or in a folder that other processes read."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.artifact import load_artifact, read_manifest, save_artifact
from mcomp.errors import StageError, UsageError
from mcomp.metrics.threads import one_thread
from mcomp.models.registry import user_file
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.evaluator import Evaluator
from mcomp.search.fitness import Fitness
from mcomp.store import atomic
from mcomp.store.digest import sha256_json
from mcomp.surgery import provenance

FORMAT = 1
SETUP, TENSORS, MODEL, OWN = "setup.json", "tensors.pt", "model", "own"


@dataclass
class SearchSetup:
    """A network, the images that judge its candidates, and how they are made.

    Attributes:
        model: float and trained, on the CPU.
        example_inputs: a batch that it accepts.
        batches: training images.
        targets: their labels.
        images: held out of training.
        labels: theirs.
        genes: layer and kind of each gene.
        pruning: arguments of :class:`mcomp.pruning.repeated.RepeatedPruning`; None where nothing is cut.
        quantization: options of every conversion; None where nothing is quantised.
        device: where candidates run.
        base_dir: what the path of a person's own file is relative to.
        study: fingerprint of the study that the setup belongs to.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    batches: Sequence[Tensor]
    targets: Sequence[Tensor]
    images: Tensor
    labels: Tensor
    genes: Sequence[tuple[str, str]]
    pruning: Mapping[str, Any] | None
    quantization: Mapping[str, Any] | None
    device: str = "cpu"
    base_dir: Path | None = None
    study: str = ""

    def evaluator(self, cuts: RepeatedPruning | None = None) -> Evaluator:
        """Tries candidates in this process; ``cuts`` spares it to trace the network again."""
        if self.pruning is not None and cuts is None:
            with one_thread():  # scores of channels are sums too
                cuts = RepeatedPruning(self.model, self.example_inputs, **self.pruning)
        fitness = Fitness(
            self.model,
            self.example_inputs,
            self.batches,
            self.images,
            self.labels,
            self.targets,
            pruning=None if self.pruning is None else cuts,
            quantization=self.quantization,
            device=self.device,
        )
        return Evaluator(fitness, self.genes)

    def write(self, folder: Path) -> None:
        """Into a folder, which is made, or made anew.

        Raises:
            StageError: MC491, no other process can build this model.
        """
        if provenance(self.model).builder is None:
            raise StageError(
                "candidates are to be tried in other processes, and this model was made by hand",
                code="MC491",
                why="nothing says how another process could build it",
                hint="name it in a recipe (`model: net.py:make`), or try them here: `workers: 1`, without `study`",
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).mkdir(exist_ok=True)
        save_artifact(self.model, folder / MODEL, self.example_inputs)
        self._copy_own_file(folder)
        held = {
            "example_inputs": list(self.example_inputs),
            "batches": list(self.batches),
            "targets": list(self.targets),
            "images": self.images,
            "labels": self.labels,
        }
        pending = folder / f"{TENSORS}{atomic.TEMPORARY}"
        with atomic.storage_errors(folder):
            torch.save(held, pending)
            os.replace(pending, folder / TENSORS)  # who maps the one before goes on reading that
        atomic.write_json(
            folder / SETUP,
            {
                "format": FORMAT,
                "genes": [list(gene) for gene in self.genes],
                "pruning": None if self.pruning is None else dict(self.pruning),
                "quantization": None if self.quantization is None else dict(self.quantization),
                "device": self.device,
                "base_dir": None if self.base_dir is None else str(self.base_dir.resolve()),
                "study": self.study,
            },
        )

    def _copy_own_file(self, folder: Path) -> None:
        """The person's file that builds the model, for machines on which it lies elsewhere or nowhere."""
        name = (provenance(self.model).builder or {})["name"]
        file, home = _own_file(name, self.base_dir), _home(name, folder)
        if file is None or home is None or not file.is_file():
            return
        copy = home / _target(name)
        with atomic.storage_errors(folder):
            home.mkdir(parents=True, exist_ok=True)  # `..` in the name needs it to be there
            copy.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(copy, file.read_bytes())

    @classmethod
    def read(cls, folder: Path, *, trust: bool = False, device: str | None = None) -> SearchSetup:
        """What :meth:`write` wrote.

        Args:
            folder: that one.
            trust: run the person's own file that builds the model.
            device: where candidates run, if elsewhere than with the one who wrote it.

        Raises:
            UsageError: MC492, the folder holds none, or one of another version.
            StoreError: as of an artifact.
        """
        try:
            said = json.loads((folder / SETUP).read_text(encoding="utf-8"))
            held = torch.load(folder / TENSORS, weights_only=True, mmap=True)
        except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UsageError(
                f"`{folder}` is no setup of a search: {str(error).partition(chr(10))[0]}",
                code="MC492",
                hint="name the folder that the search wrote, as this machine sees it: `--setup FOLDER`",
            ) from error
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise UsageError(
                f"`{folder}` is of another version of mcomp",
                code="MC492",
                hint="use the same version on every machine of a search",
            )
        base = _base_dir(folder, None if said["base_dir"] is None else Path(said["base_dir"]))
        return cls(
            load_artifact(folder / MODEL, trust=trust, base_dir=base),
            tuple(held["example_inputs"]),
            held["batches"],
            held["targets"],
            held["images"],
            held["labels"],
            [(layer, kind) for layer, kind in said["genes"]],
            said["pruning"],
            said["quantization"],
            device or said["device"],
            base,
            said["study"],
        )


def _base_dir(folder: Path, recorded: Path | None) -> Path | None:
    """The recorded folder, unless only the setup's copy of the person's own file is there."""
    name = (read_manifest(folder / MODEL)["builder"] or {}).get("name", "")
    file, home = _own_file(name, recorded), _home(name, folder)
    if file is None or home is None or file.is_file() or not (home / _target(name)).is_file():
        return recorded
    return home


def _own_file(name: str, base_dir: Path | None) -> Path | None:
    """Of ``file.py:factory``; a module is found by its own name."""
    return user_file(name, base_dir) if _target(name).endswith(".py") else None


def _home(name: str, folder: Path) -> Path | None:
    """What the name is relative to inside the setup, as deep as its ``..`` climb; None for an absolute one."""
    target = _target(name)
    if os.path.isabs(target):
        return None
    return folder.joinpath(OWN, *["up"] * os.path.normpath(target).split(os.sep).count(".."))


def _target(name: str) -> str:
    return name.rpartition(":")[0]


def fingerprint(space: str, options: Mapping[str, Any], identity: object) -> str:
    """What makes two searches the same study: the space, what candidates are made of, the network."""
    return sha256_json({"space": space, "options": dict(options), "model": identity})[:16]
