"""Prune whole channels of any network, transferring the weights, with proof."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_map

from mcomp import surgery
from mcomp.errors import StageError
from mcomp.metrics.cost import parameter_count
from mcomp.pruning.allocation import Allocation, Scope, ranking_of, untied
from mcomp.pruning.arguments import check_amounts, check_choices, check_lists
from mcomp.pruning.attention import free_attention
from mcomp.pruning.channel_groups import ChannelGroups, channel_groups, layer_name
from mcomp.pruning.channel_surgery import own_parameters, shared_copy
from mcomp.pruning.collecting import no_collection
from mcomp.pruning.fitting import NO_NORM, Fitting, leave_whole
from mcomp.pruning.goals import goal_of, macs_of_one
from mcomp.pruning.gradients import Batch, Loss
from mcomp.pruning.held_tensors import copied_inputs
from mcomp.pruning.importance import Importance, Normalize, Reduction, channel_importance
from mcomp.pruning.keep_lists import Shares, keep_list, layer_widths, matching
from mcomp.pruning.passes import TraceFailure, trace_labels
from mcomp.pruning.python_inputs import check_network, fails_on_inputs
from mcomp.pruning.reaching import Goal, Reached, reach_goal
from mcomp.pruning.self_check import TOLERANCE, Proof, WrongCut, check
from mcomp.pruning.targets import Kind, Target
from mcomp.pruning.tracing import Heads


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
        max_error: ``max|pruned - masked| / max|masked|`` of the self-check, of the output where it is largest.
        channels_before: how many channels could stay or go, coupled ones counted once.
        channels_after: how many of them stayed.
        notes: what was left whole, and why; by how much a target was missed.
    """

    model: nn.Module
    kept: dict[str, list[int]]
    widths: dict[str, int]
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    max_error: float
    channels_before: int
    channels_after: int
    notes: list[str] = field(default_factory=list)


@torch.inference_mode(False)
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


@torch.inference_mode(False)
def prune(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    ratio: float | None = None,
    regular: int = 1,
    importance: Importance = "bn_gamma",
    scope: Scope = "global",
    min_channels: int = 1,
    ignore: Sequence[str] = (),
    seed: int = 0,
    heads: Heads = "dims",
    *,
    macs: float | str | None = None,
    params: float | str | None = None,
    latency_ms: float | None = None,
    keep: Shares | None = None,
    prune: Shares | None = None,
    group_reduction: Reduction = "mean",
    normalize: Normalize = "auto",
    batches: Iterable[Batch] = (),
    loss: Loss | None = None,
) -> PruneResult:
    """Cut the least important channels out of a copy of ``model``.

    Channels at or below the threshold go (Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", arXiv:1708.06519); the counts are rounded to what the network's structure and ``regular`` allow; weights
    are transferred, through group convolutions and channel shuffles too. What cannot be cut exactly is left whole and
    named in the notes. One target at the most: ``ratio`` (0.5 where nothing says how much goes), or ``macs``,
    ``params`` or ``latency_ms``, reached within 2 %.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts, two samples or more where it has batch norms.
        ratio: share of the prunable channels to cut, in (0, 1).
        regular: every pruned width is a multiple of this.
        importance: the score, as :func:`mcomp.pruning.importance.channel_importance` explains them.
        scope: what shares a threshold: all layers, each for itself, or those of one structure.
        min_channels: no layer keeps fewer.
        ignore: layer names or patterns (``features.*``) to leave whole.
        seed: for ``importance="random"``.
        heads: what goes of an attention layer: ``dims``, single channels, as many of every head; or ``whole`` heads.
        macs: multiply-accumulates to leave: a share below 1, else a count, also as text: ``"300M"``, ``"1.2G"``.
        params: parameters to leave, likewise.
        latency_ms: median of one sample on one thread, eager PyTorch, where the model lives.
        keep: layer or pattern to the share of its channels that stays, or their count if it is a whole number; or a
            list of shares, one for each layer in order of execution.
        prune: the same of shares that go.
        group_reduction: what several filters of one channel score together.
        normalize: what the scores of a layer are divided by.
        batches: inputs and labels, for ``taylor`` and ``hessian``.
        loss: of the model's outputs and labels, for the same; cross-entropy where left out.

    Raises:
        UsageError: an argument is out of its range, or a pattern matches no layer.
        StageError: nothing can be pruned, a target cannot be reached, or the self-check failed.
    """
    check_choices(importance, scope, heads, group_reduction, normalize)
    check_lists(keep, prune, ignore)
    given: dict[Kind, float | str | None] = {"ratio": ratio, "macs": macs, "params": params, "latency_ms": latency_ms}
    target = check_amounts(given, regular, min_channels, seed, listed=bool(keep or prune))
    subject, inputs = subject_of(model, example_inputs)
    groups = ignoring(traced(subject, inputs, heads), ignore)
    how = {"reduction": group_reduction, "normalize": normalize, "batches": batches, "loss": loss}
    scores = channel_importance(subject, groups, importance, seed, **how)  # type: ignore[arg-type]
    told = keep_list(groups, keep, prune)
    groups = ranked_groups(groups, importance, scores)
    allocation = Allocation(None, ranking_of(groups, scope), told.groups)
    search = Fitting(groups, scores, allocation, regular, min_channels)
    return _pruned(_Subject(model, example_inputs, subject, inputs, groups), search, target, told.notes)


@dataclass(frozen=True)
class _Subject:
    """A model as it was given, and its copy that was traced."""

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    copy: nn.Module
    inputs: tuple[Tensor, ...]
    groups: ChannelGroups


def _pruned(subject: _Subject, search: Fitting, target: Target | None, notes: list[str]) -> PruneResult:
    """Settle what goes, prove it, and do it."""
    goal = None
    if target is not None and target.kind == "ratio":
        search.allocation = replace(search.allocation, ratio=target.amount)
    elif target is not None:
        goal = _goal(target, subject)
        search.scores = untied(search.scores)
    while True:
        reached = _at_ratio(search) if goal is None else reach_goal(search, goal)
        try:
            cuts = reached.surgery.cuts
            proof = check(subject.copy, reached.surgery, subject.inputs, subject.groups.trace) if cuts else Proof(0.0)
            break
        except WrongCut as failure:
            # what multiplies its weights may not be made good for by other weights: then it keeps its width
            if not (
                search.leave(reached.surgery, "its scale follows its width in a way of its own")
                or search.leave_what_fails(failure.is_exact, _HARMFUL)
            ):
                raise
    if proof.coarse is not None:
        notes = [*notes, f"{_IN_DOUBLE}: in float32 rounding makes {proof.coarse:.1e} of it, above {TOLERANCE:.0e}"]
    return _result(subject, search, reached, proof.error, [reached.note, *notes] if reached.note else notes)


#: Why a layer stays whole whose cut changes what the network computes.
_HARMFUL = "cutting it changes what the network computes, in a way that the trace did not see"

_IN_DOUBLE = "`max_error` was measured in double precision"


def _goal(target: Target, subject: _Subject) -> Goal:
    """It runs the model outside of a trace: on a copy where its forward writes into weights."""
    model, copied = (_expendable(one, subject.groups) for one in (subject.model, subject.copy))
    return goal_of(target, model, copied_inputs(subject.example_inputs), copied, subject.inputs, subject.groups)


def _expendable(model: nn.Module, groups: ChannelGroups) -> nn.Module:
    return copy.deepcopy(model) if groups.trace.writes else model


@no_collection()
def _at_ratio(search: Fitting) -> Reached:
    return Reached(search.run(), 0.0, search.macs)


@no_collection()
def _result(subject: _Subject, search: Fitting, reached: Reached, error: float, notes: list[str]) -> PruneResult:
    model, groups, cuts = subject.model, subject.groups, reached.surgery.cuts
    result = surgery.inherit(own_parameters(reached.surgery.apply(shared_copy(model)), model), model)
    kept = {layer_name(cut.parameter): cut.indices.tolist() for cut in cuts if cut.role == "rows"}
    surgery.record(result, "prune", kept=kept, **reached.surgery.as_entry())
    counts = search.counts() if cuts else {}
    return PruneResult(
        model=result,
        kept=kept,
        widths=layer_widths(groups),
        macs_before=macs_of_one(_expendable(subject.copy, groups), copied_inputs(subject.inputs), groups.trace.macs),
        macs_after=macs_of_one(_expendable(result, groups), copied_inputs(subject.inputs), reached.macs),
        params_before=parameter_count(model),
        params_after=parameter_count(result),
        max_error=error,
        channels_before=sum(group.channels for group in groups.prunable),
        channels_after=sum(counts.get(group.name, group.channels) for group in groups.prunable),
        notes=[*notes, *search.notes()],
    )


def ranked_groups(groups: ChannelGroups, importance: Importance, scores: Mapping[str, Tensor]) -> ChannelGroups:
    """The groups with those left whole that ``bn_gamma`` cannot rank, having no batch norm."""
    if importance != "bn_gamma":
        return groups
    return leave_whole(groups, dict.fromkeys({group.name for group in groups.prunable} - scores.keys(), NO_NORM))


@no_collection()
def traced(subject: nn.Module, inputs: tuple[Tensor, ...], heads: Heads = "dims") -> ChannelGroups:
    """The groups of what :func:`subject_of` made.

    Raises:
        StageError: MC410, the model fails on its example inputs.
    """
    try:
        return channel_groups(trace_labels(subject, inputs, heads=heads))
    except TraceFailure as failure:
        raise fails_on_inputs(failure.cause, failure.module, inputs) from failure.cause


@torch.inference_mode(False)
@no_collection()
def subject_of(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy to experiment on, and its inputs: CPU, eval mode, float32 where the model is in half precision.

    Raises:
        UsageError: MC417, there is no network, or no tuple of inputs.
        StageError: MC410, the model cannot be copied, or its weights are complex or have no shape yet.
    """
    check_network(model, example_inputs)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            scripted = f"`{name}`" if name else "the model"
            hint = "prune the Python module, and script or trace the result"
            raise StageError(f"{scripted} is TorchScript, whose code cannot be followed", code="MC410", hint=hint)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise StageError(f"`{name}` has no values", code="MC410", hint="load the model's weights before pruning it")
        if isinstance(parameter, UninitializedParameter):
            raise StageError(f"`{name}` has no shape yet", code="MC410", hint="run the model once before pruning it")
        if parameter.is_complex():
            raise StageError(f"`{name}` is complex; only real weights can be pruned", code="MC410")
    dtype = next((p.dtype for p in parameters.values() if p.is_floating_point()), torch.float32)
    half = dtype in (torch.float16, torch.bfloat16)
    try:
        tensors = [*parameters.values(), *model.buffers()]
        # what was made in inference mode is no use outside of it: its copy is
        if half or any(one.device.type != "cpu" or one.is_inference() for one in tensors):
            subject = copy.deepcopy(model).cpu()
        else:
            subject = shared_copy(model)
    except (RuntimeError, TypeError) as error:
        raise StageError(
            f"the model cannot be copied: {error}",
            code="MC410",
            hint="take masks and re-parametrisations off first (`torch.nn.utils.prune.remove`, `remove_weight_norm`)",
        ) from error
    free_attention(subject.eval())
    if half:
        subject, dtype = subject.float(), torch.float32

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        home = leaf.detach().cpu().clone()
        return home.to(dtype) if home.is_floating_point() else home

    inputs: tuple[Any, ...] = tree_map(moved, example_inputs)
    return subject, inputs


def ignoring(groups: ChannelGroups, patterns: Sequence[str]) -> ChannelGroups:
    """The groups with those left whole that have a layer whose name matches a pattern.

    Raises:
        UsageError: MC418, a pattern matches no layer.
    """
    whole: dict[str, str] = {}
    names = [name for group in groups for name in group.producers]
    for pattern in patterns:
        matched = matching(pattern, names, "ignore")
        hit = [group.name for group in groups if {*group.producers} & {*matched}]
        whole |= dict.fromkeys(hit, f"matches `ignore` pattern `{pattern}`")
    return leave_whole(groups, whole)
