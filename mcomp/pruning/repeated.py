"""One network pruned to many sets of widths, as a search does: traced and ranked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.metrics.cost import count, parameter_count
from mcomp.pruning.allocation import Allocation, ranking_of
from mcomp.pruning.channel_groups import ChannelGroup
from mcomp.pruning.channel_surgery import own_parameters, shared_copy
from mcomp.pruning.cost_form import CostForm, mac_form, parameter_form
from mcomp.pruning.fitting import Fitting
from mcomp.pruning.goals import cost_predictor, macs_of_one
from mcomp.pruning.importance import Importance, channel_importance
from mcomp.pruning.structured import ignoring, ranked_groups, subject_of, traced

#: Of the MACs, the part that a form may be wrong by.
_EXACT = 1e-4
_GOLDEN = 0.618


class RepeatedPruning:
    """Cuts of one network whose layers are told what share of their channels to keep.

    Coupled layers have one width, so a share belongs to a group of layers and goes by the name of the first. The cuts
    are those of :func:`mcomp.pruning.prune` with ``keep``, less its self-check: prune the network that is chosen in
    the end with that function, which proves it. What the network's code refuses in one cut is not held against the
    next: a cut depends on its shares alone, whoever made which before.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts.
        regular: every width that is cut is a multiple of it.
        importance: which channels go first.
        min_channels: no layer keeps fewer.
        ignore: layer names or patterns to leave whole.
        seed: for ``importance="random"``.

    Raises:
        UsageError: as ``prune``.
        StageError: the model cannot be traced, or none of it can be pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        regular: int = 1,
        importance: Importance = "l1",
        min_channels: int = 1,
        ignore: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.model = model
        subject, inputs = subject_of(model, example_inputs)
        groups = ignoring(traced(subject, inputs), ignore)
        scores = channel_importance(subject, groups, importance, seed)
        groups = ranked_groups(groups, importance, scores)
        self._scores, self._regular, self._min_channels = scores, regular, min_channels
        self._allocation = Allocation(None, ranking_of(groups, "global"), {})
        self._bases: dict[tuple[str, bool], int] = {}
        self._groups, self._probe = groups, None
        # what the network's own code ties together or refuses is found once, so that a cut depends on its shares alone
        probe = self._told(_uneven(self.channels()))
        probe.run()
        groups, self._probe = probe.groups, probe
        sizes, macs = parameter_form(subject, groups), mac_form(subject, inputs, groups)
        self.whole = {
            "macs": float(macs_of_one(subject, inputs, groups.trace.macs)),
            "params": float(parameter_count(subject)),
        }
        self._subject, self._groups = subject, groups
        self.layers = {group.name: group.producers for group in groups.prunable}
        self._forms = {"macs": self._corrected(macs, inputs), "params": sizes}
        self._costs = {
            kind: cost_predictor(form, sizes, groups, self.whole[kind]) for kind, form in self._forms.items()
        }

    def widths(self, keep: Mapping[str, float]) -> dict[str, int]:
        """Channels of every group, for shares of some: rounded to what its structure and ``regular`` allow."""
        fitting = self._told(keep)
        return self.channels() | fitting.counts()

    def macs(self, keep: Mapping[str, float]) -> float:
        """Multiply-accumulates of one sample."""
        return self._costs["macs"](self.widths(keep))

    def params(self, keep: Mapping[str, float]) -> float:
        """Parameters."""
        return self._costs["params"](self.widths(keep))

    def cut(self, keep: Mapping[str, float]) -> nn.Module:
        """A pruned copy; a share that its layers cannot have is rounded, or the group is left whole."""
        done = self._told(keep).run()
        return surgery.inherit(own_parameters(done.apply(shared_copy(self.model)), self.model), self.model)

    def bases(self) -> dict[str, int]:
        """What the width of each group divides by."""
        fitting = self._told({})
        return {group.name: fitting.base(group) for group in self._all}

    def ties(self) -> list[tuple[list[str], list[float]]]:
        """Groups that the network's code wants to keep the same share, and the shares below 1 that all can have."""
        return self._told({}).tied_sets()

    def leasts(self) -> dict[str, int]:
        """Fewest channels of each group by ``min_channels``, not rounded yet."""
        return {group.name: group.least(self._min_channels) for group in self._all}

    def weight_form(self, parameter: str) -> CostForm:
        """Elements of one parameter by the widths of the groups."""
        return parameter_form(self._subject, self._groups, parameter)

    def form(self, kind: Literal["macs", "params"]) -> CostForm:
        """Multiply-accumulates of weights, or parameters, by the widths of the groups."""
        return self._forms[kind]

    def channels(self) -> dict[str, int]:
        """Of every group, uncut."""
        return {group.name: group.channels for group in self._all}

    def _corrected(self, form: CostForm, inputs: tuple[Tensor, ...]) -> CostForm:
        """The form with what the weights alone do not explain, as a line in the width of each group.

        Products of two activations in attention are such, and weights that are used once per channel, as those that
        mix tokens. Each group is cut alone, tied ones together, and what the count then has beside the form is the
        slope of the first.
        """
        channels = self.channels()
        if abs(self._off(form, _uneven(channels), inputs)) < _EXACT * self.whole["macs"]:
            return form
        rest = self.whole["macs"] - form.value({name: float(width) for name, width in channels.items()})
        tied = {name: names for names, _ in self.ties() for name in names}
        slopes = dict.fromkeys(form.names, 0.0)
        for name in form.names:
            keep = dict.fromkeys(tied.get(name, [name]), 0.5)
            less = channels[name] - self.widths(keep)[name]
            if less and next(iter(keep)) == name:
                slopes[name] = (rest - self._off(form, keep, inputs)) / less
        line = torch.tensor(list(slopes.values()), dtype=torch.float64).clamp(min=-form.linear)  # a cut never costs
        at_whole = float(line @ torch.tensor([float(channels[name]) for name in form.names], dtype=torch.float64))
        return replace(form, constant=form.constant + rest - at_whole, linear=form.linear + line)

    def _off(self, form: CostForm, keep: Mapping[str, float], inputs: tuple[Tensor, ...]) -> float:
        """What is counted of a cut network beyond what the form says of it."""
        told = form.value({name: float(width) for name, width in self.widths(keep).items()})
        return count(self.cut(keep), inputs).macs - told

    @property
    def _all(self) -> Sequence[ChannelGroup]:
        return self._groups.prunable

    def _told(self, keep: Mapping[str, float]) -> Fitting:
        channels = self.channels()
        fixed = {name: share * channels[name] for name, share in keep.items() if name in channels}
        allocation = replace(self._allocation, fixed=fixed)
        fitting = Fitting(self._groups, self._scores, allocation, self._regular, self._min_channels, _bases=self._bases)
        if self._probe is not None:
            fitting.balanced, fitting.tied = {*self._probe.balanced}, [{*names} for names in self._probe.tied]
        return fitting


def _uneven(names: Iterable[str]) -> dict[str, float]:
    """A share for each, no two neighbours alike: what has to be the same shows."""
    return {name: 0.4 + 0.5 * (place * _GOLDEN % 1) for place, name in enumerate(names)}
