"""One network pruned to many sets of widths, as a search does: traced and ranked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from mcomp import surgery
from mcomp.metrics.cost import parameter_count
from mcomp.pruning.allocation import Allocation, ranking_of
from mcomp.pruning.channel_groups import ChannelGroup
from mcomp.pruning.channel_surgery import own_parameters, shared_copy
from mcomp.pruning.cost_form import mac_form, parameter_form
from mcomp.pruning.fitting import Fitting
from mcomp.pruning.goals import cost_predictor, macs_of_one
from mcomp.pruning.importance import Importance, channel_importance
from mcomp.pruning.structured import ignoring, ranked_groups, subject_of, traced


class RepeatedPruning:
    """Cuts of one network whose layers are told what share of their channels to keep.

    Coupled layers have one width, so a share belongs to a group of layers and goes by the name of the first. The cuts
    are those of :func:`mcomp.pruning.prune` with ``keep``, less its self-check: prune the network that is chosen in
    the end with that function, which proves it.

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
        self._fitting = Fitting(
            groups, scores, Allocation(None, ranking_of(groups, "global"), {}), regular, min_channels
        )
        sizes, macs = parameter_form(subject, groups), mac_form(subject, inputs, groups)
        whole = {
            "macs": float(macs_of_one(subject, inputs, groups.trace.macs)),
            "params": float(parameter_count(subject)),
        }
        self._costs = {
            "macs": cost_predictor(macs, sizes, groups, whole["macs"]),
            "params": cost_predictor(sizes, sizes, groups, whole["params"]),
        }
        self.layers = {group.name: group.producers for group in groups.prunable}

    def widths(self, keep: Mapping[str, float]) -> dict[str, int]:
        """Channels of every group, for shares of some: rounded to what its structure and ``regular`` allow."""
        fitting = self._told(keep)
        return {group.name: group.channels for group in self._all} | fitting.counts()

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

    @property
    def _all(self) -> Sequence[ChannelGroup]:
        return [group for group in self._fitting.groups if group.name in self.layers]

    def _told(self, keep: Mapping[str, float]) -> Fitting:
        channels = {group.name: group.channels for group in self._all}
        fixed = {name: share * channels[name] for name, share in keep.items()}
        self._fitting.allocation = replace(self._fitting.allocation, fixed=fixed)
        return self._fitting
