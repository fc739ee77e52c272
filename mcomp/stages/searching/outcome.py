"""What a search hands on: the choice by name, files, figures, and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mcomp.errors import plural
from mcomp.search.genes import Gene
from mcomp.search.legacy import legacy_lines
from mcomp.search.network_space import NetworkSpace
from mcomp.search.study import Study, Trial
from mcomp.stages.base import Metrics
from mcomp.stages.searching.choice_file import choice_file, no_choice

BEST, TRIALS = "best.yaml", "trials.jsonl"
_HEAD = """\
# What a search chose.
# Bits by layer for `quantize: {{overrides_file: {name}}}`, channels for `prune: {{keep_file: {name}}}`.
"""


@dataclass
class Outcome:
    """Of a study that has ended.

    Attributes:
        study: with its trials.
        known: the space.
        best: the trial that was chosen.
        cut: how candidates lose channels, as options of `prune`; empty where none does.
    """

    study: Study
    known: NetworkSpace
    best: Trial
    cut: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def choice(self) -> dict[str, dict[str, float]]:
        """Layer to kind to value; ``keep`` by the first layer of each group."""
        return {name: dict(kinds) for name, kinds in self.known.space.named(self.best.genome).items()}

    @cached_property
    def widths(self) -> dict[str, int]:
        """Channels of the groups that lose some."""
        if self.known.pruning is None:
            return {}
        shares = {name: kinds["keep"] for name, kinds in self.choice.items() if "keep" in kinds}
        whole = self.known.pruning.channels()
        return {name: kept for name, kept in self.known.pruning.widths(shares).items() if kept < whole[name]}

    @cached_property
    def shares(self) -> dict[str, float]:
        """The same as parts of the group: the layer that it is named after may make only some of its channels."""
        whole = {} if self.known.pruning is None else self.known.pruning.channels()
        return {name: kept / whole[name] for name, kept in self.widths.items()}

    def legacy_lines(self) -> list[str]:
        """As older projects print and read them."""
        coupled = {} if self.known.pruning is None else self.known.pruning.layers
        whole = {} if self.known.pruning is None else self.known.pruning.channels()
        choice = {name: dict(kinds) for name, kinds in self.choice.items()}
        for group, kinds in choice.items():
            if "keep" in kinds:  # what is really cut, after rounding
                kinds["keep"] = self.widths.get(group, whole[group]) / whole[group]
        return legacy_lines(self.known.layers, choice, coupled)

    def metrics(self) -> Metrics:
        """Of the search and of what it chose; ``top1`` beside them is that of the model, which stays as it is."""
        trials = self.study.trials
        found: Metrics = {
            "val_top1": float(self.best.fitness or 0.0),
            "candidates": len({trial.number for trial in trials}),
            "candidates_failed": len({trial.number for trial in trials if trial.fitness is None}),
            "front": len(self.study.front),
        }
        return found | {f"chosen_{name}": value for name, value in self.best.costs.items()}

    def write(self, folder: Path) -> dict[str, Path]:
        """The files, by name; a choice of its own for every network on a front."""
        texts = {BEST: self._written(BEST)}
        texts[TRIALS] = "".join(json.dumps(trial.as_dict()) + "\n" for trial in self.study.trials)
        for trial in self.study.front if len(self.study.objectives) > 1 else ():
            name = f"front-{trial.number}.yaml"
            texts[name] = replace(self, best=trial)._written(name)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return {name: folder / name for name in texts}

    def _written(self, name: str) -> str:
        """The choice as YAML, for `prune` and `quantize`."""
        bits = {
            layer: {kind: int(value) for kind, value in kinds.items() if kind != "keep"}
            for layer, kinds in self.choice.items()
        }
        held: dict[str, Any] = {}
        if any(bits.values()):
            held["overrides"] = {layer: kinds for layer, kinds in bits.items() if kinds}
        if self.known.pruning is not None:
            held["keep"] = self.shares
            held["cut"] = dict(self.cut)
        held["costs"] = {cost: round(value, 6) for cost, value in self.best.costs.items()}
        held["val_top1"] = self.best.fitness
        return _HEAD.format(name=name) + yaml.safe_dump(held, sort_keys=False, default_flow_style=None, width=120)

    def notes(self) -> list[str]:
        """For whoever reads the table."""
        costs = ", ".join(f"{name} {_short(value)}" for name, value in self.best.costs.items())
        found = [f"candidate {self.best.number} is chosen: {self.best.fitness:.2f} % held-out top-1 untrained, {costs}"]
        found += [
            f"{what}: the network's own code ties widths in ways that were not foreseen" for what in self._beyond()
        ]
        failed = [trial for trial in self.study.trials if trial.fitness is None]
        if failed:
            found.append(f"{plural(len(failed), 'candidate')} could not be made, the first because {failed[0].error}")
        return found

    def _beyond(self) -> list[str]:
        from mcomp.stages.searching.counted import beyond

        return beyond(self.best, self.known)

    def details(self) -> dict[str, Any]:
        """For the report: every trial, the front, the choice by layer."""
        return {
            "search": {
                "objectives": list(self.study.objectives),
                "budgets": {budget.name: budget.limit for budget in self.known.space.budgets},
                "trials": [
                    {
                        "number": trial.number,
                        "level": trial.level,
                        "top1": trial.fitness,
                        "costs": dict(trial.costs),
                    }
                    for trial in self.study.trials
                ],
                "front": [trial.number for trial in self.study.front],
                "best": self.best.number,
                "layers": [{"layer": name, **kinds} for name, kinds in self.choice.items()],
                "widths": self.widths,
            }
        }


def choice_in(path: Path, known: NetworkSpace) -> dict[str, dict[str, float]]:
    """The choice that a ``best.yaml`` holds, for a space; what the space does not search is left out.

    Raises:
        UsageError: MC499, the file holds none.
    """
    held = choice_file(path)
    genes = {(gene.layer, gene.kind): gene for gene in known.space.genes}
    found: dict[str, dict[str, float]] = {}
    bits = held.get("overrides") or {}
    said = [(layer, kind, value) for layer, kinds in bits.items() for kind, value in dict(kinds or {}).items()]
    said += [(layer, "keep", count) for layer, count in (held.get("keep") or {}).items()]
    for layer, kind, value in said:
        gene = genes.get((layer, kind))
        if gene is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise no_choice(path, f"`{kind}` of `{layer}` is {value!r}")
        share = value if kind != "keep" or isinstance(value, float) else _share(known, gene, value)
        found.setdefault(layer, {})[kind] = share
    return found


def _share(known: NetworkSpace, gene: Gene, count: int) -> float:
    """The value of a gene that so many channels stand for: a width that was rounded is not that part of all."""
    assert known.pruning is not None
    channels = known.pruning.channels()[gene.layer]
    nearest = count / channels
    steps = round((gene.high - gene.low) / gene.step) if gene.step else 0
    values = [nearest, *(gene.high - step * gene.step for step in range(steps + 1))]
    widths = [known.pruning.widths({gene.layer: gene.value(value)})[gene.layer] for value in values]
    return gene.value(next((value for value, width in zip(values, widths, strict=True) if width == count), nearest))


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if value < 1000 else f"{value:.0f}"
