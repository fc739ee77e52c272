"""Prune whole channels of any network, transferring the weights, with proof."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mcomp import surgery
from mcomp.errors import StageError, UsageError
from mcomp.pruning.allocation import Scope
from mcomp.pruning.channel_groups import ChannelGroups, channel_groups, layer_name
from mcomp.pruning.channel_surgery import cut_channels, shared_copy
from mcomp.pruning.fitting import NO_NORM, Fitting, leave_whole
from mcomp.pruning.importance import Importance, channel_importance
from mcomp.pruning.self_check import check
from mcomp.pruning.tracing import TraceFailure, trace_labels
from mcomp.suggest import did_you_mean


@dataclass
class PruneResult:
    """A pruned network and what was done to it.

    Attributes:
        model: a new module; the one that was given is unchanged.
        kept: layer to the original indices of the output channels it kept, in their new order; pruned layers only.
        widths: layer to its output channels before, for every layer in a group that could be traced.
        macs_before: multiply-accumulates of one sample.
        macs_after: the same, of the pruned network.
        params_before: number of parameters.
        params_after: the same, of the pruned network.
        max_error: ``max|pruned - masked| / max|masked|`` of the self-check.
        notes: what was left whole, and why.
    """

    model: nn.Module
    kept: dict[str, list[int]]
    widths: dict[str, int]
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    max_error: float
    notes: list[str] = field(default_factory=list)


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> ChannelGroups:
    """Find which channels of which parameters depend on one another, by following one forward.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts.

    Raises:
        StageError: the model cannot be copied or run, or its weights are complex.
    """
    subject, inputs = subject_of(model, example_inputs)
    return traced(subject, inputs)


def prune(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    ratio: float = 0.5,
    regular: int = 1,
    importance: Importance = "bn_gamma",
    scope: Scope = "global",
    min_channels: int = 1,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> PruneResult:
    """Cut the least important channels out of a copy of ``model``.

    Channels at or below the threshold go (Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", arXiv:1708.06519); the counts are rounded to what the network's structure and ``regular`` allow; weights
    are transferred, through group convolutions and channel shuffles too. What cannot be cut exactly is left whole and
    named in the notes.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts, two samples or more where it has batch norms.
        ratio: share of the prunable channels to cut, in (0, 1).
        regular: every pruned width is a multiple of this.
        importance: ``bn_gamma``, ``l1``, ``l2`` or ``random``.
        scope: one threshold for the whole network (``global``) or for each layer (``per_layer``).
        min_channels: no layer keeps fewer.
        ignore: layer names or patterns (``features.*``) to leave whole.
        seed: for ``importance="random"``.

    Raises:
        UsageError: an argument is out of its range, or a pattern of ``ignore`` matches no layer.
        StageError: nothing can be pruned, or the self-check failed.
    """
    check_arguments(ratio, regular, importance, scope, min_channels)
    subject, inputs = subject_of(model, example_inputs)
    groups = ignoring(traced(subject, inputs), ignore)
    scores = channel_importance(subject, groups, importance, seed)
    if importance == "bn_gamma":
        groups = leave_whole(groups, dict.fromkeys({group.name for group in groups.prunable} - scores.keys(), NO_NORM))
    search = Fitting(subject, inputs, groups, scores, ratio, regular, scope, min_channels)
    cuts = search.run()
    error = check(subject, cuts, inputs) if cuts else 0.0
    result = surgery.inherit(copy.deepcopy(cut_channels(shared_copy(model), cuts)), model)
    kept = {layer_name(cut.parameter): cut.indices.tolist() for cut in cuts if cut.role == "rows"}
    surgery.record(result, "prune", kept=kept, cuts=[cut.as_entry() for cut in cuts])
    before, after = _cost(subject, inputs), _cost(cut_channels(shared_copy(subject), cuts), inputs)
    return PruneResult(
        model=result,
        kept=kept,
        widths=_widths(groups),
        macs_before=before[1],
        macs_after=after[1],
        params_before=before[0],
        params_after=after[0],
        max_error=error,
        notes=search.notes(),
    )


def traced(subject: nn.Module, inputs: tuple[Tensor, ...]) -> ChannelGroups:
    """The groups of what :func:`subject_of` made.

    Raises:
        StageError: MC410, the model fails on its example inputs.
    """
    try:
        return channel_groups(trace_labels(subject, inputs))
    except TraceFailure as failure:
        module = failure.operations[-1].module if failure.operations else ""
        where = f" in `{module}`" if module else ""
        raise StageError(
            f"the model fails on its example inputs{where}: {type(failure.cause).__name__}: {failure.cause}",
            code="MC410",
            hint="example inputs must be a batch that `model(*example_inputs)` accepts",
        ) from failure.cause


def subject_of(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy to experiment on, and its inputs: CPU, eval mode, float32 where the model is in half precision.

    Raises:
        StageError: MC410, the model cannot be copied, or its weights are complex or have no shape yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise StageError(f"`{name}` has no shape yet", code="MC410", hint="run the model once before pruning it")
        if parameter.is_complex():
            raise StageError(f"`{name}` is complex; only real weights can be pruned", code="MC410")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    half = dtype in (torch.float16, torch.bfloat16)
    try:
        if half or any(parameter.device.type != "cpu" for parameter in model.parameters()):
            subject = copy.deepcopy(model).cpu()
        else:
            subject = shared_copy(model)
    except (RuntimeError, TypeError) as error:
        raise StageError(f"the model cannot be copied: {error}", code="MC410") from error
    subject.eval()
    if half:
        subject, dtype = subject.float(), torch.float32
    cpu = (tensor.detach().cpu() for tensor in example_inputs)
    return subject, tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in cpu)


def ignoring(groups: ChannelGroups, patterns: Sequence[str]) -> ChannelGroups:
    """The groups with those left whole that have a layer whose name matches a pattern.

    Raises:
        UsageError: MC418, a pattern matches no layer.
    """
    whole: dict[str, str] = {}
    names = [name for group in groups for name in group.producers]
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise UsageError(
                f"`ignore` pattern `{pattern}` matches no layer",
                code="MC418",
                hint=did_you_mean(pattern, names) or f"layers: {', '.join(names[:8])} …",
            )
        hit = [group.name for group in groups if {*group.producers} & {*matched}]
        whole |= dict.fromkeys(hit, f"matches `ignore` pattern `{pattern}`")
    return leave_whole(groups, whole)


def check_arguments(ratio: float, regular: int, importance: str, scope: str, min_channels: int) -> None:
    """See that the arguments of :func:`prune` are in their ranges.

    Raises:
        UsageError: MC417, one is not.
    """
    faults = {
        f"`ratio` is {ratio}; it must lie between 0 and 1, both excluded": not 0 < ratio < 1,
        f"`regular` is {regular}; it must be at least 1": regular < 1,
        f"`min_channels` is {min_channels}; it must be at least 1": min_channels < 1,
        f"`importance` is `{importance}`; one of bn_gamma, l1, l2, random": importance
        not in ("bn_gamma", "l1", "l2", "random"),
        f"`scope` is `{scope}`; one of global, per_layer": scope not in ("global", "per_layer"),
    }
    for message, wrong in faults.items():
        if wrong:
            raise UsageError(message, code="MC417")


def _widths(groups: ChannelGroups) -> dict[str, int]:
    sites = groups.trace.sites.values()
    return {layer_name(site.key): len(site.labels) for site in sites if site.role == "rows"}


def _cost(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    from mcomp.metrics import count

    cost = count(model, inputs)
    return cost.params, cost.macs
