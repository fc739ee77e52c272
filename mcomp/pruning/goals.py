"""What a target means for one network: the figure to reach, how it is predicted from widths, how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mcomp.metrics import count, interleaved, model_latency
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.metrics.cost import parameter_count
from mcomp.metrics.samples import first_sample, samples_of
from mcomp.metrics.threads import one_thread
from mcomp.metrics.timing import on_device
from mcomp.pruning.channel_groups import ChannelGroups
from mcomp.pruning.channel_surgery import Surgery, cut_channels, restored, shared_copy
from mcomp.pruning.cost_form import CostForm, mac_form, parameter_form
from mcomp.pruning.reaching import Goal
from mcomp.pruning.targets import Target
from mcomp.pruning.tracing import Trace

#: Milliseconds that one comparison of two networks may take, warm-up left out.
_PATIENCE = 1500.0


def goal_of(
    target: Target,
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    subject: nn.Module,
    inputs: tuple[Tensor, ...],
    groups: ChannelGroups,
) -> Goal:
    """The goal that ``target`` sets for ``model``.

    Args:
        target: of MACs, parameters or milliseconds.
        model: as it was given: it is timed where it lives.
        example_inputs: for it.
        subject: its copy that was traced.
        inputs: for the copy.
        groups: of the trace.
    """
    trace = groups.trace
    sizes = parameter_form(subject, groups)
    if target.kind == "params":
        whole = float(parameter_count(subject))
        predicted = cost_predictor(sizes, sizes, groups, whole)
        return Goal("params", target.goal(whole), whole, predicted, partial(_parameters_left, trace))
    macs = float(macs_of_one(subject, inputs, trace.macs))
    predicted = cost_predictor(mac_form(subject, inputs, groups), sizes, groups, macs)
    if target.kind == "macs":
        return Goal("macs", target.goal(macs), macs, predicted, lambda _, found: macs * found / trace.macs)
    whole = model_latency(model, example_inputs, batch=1, threads=1).median_ms
    return Goal(
        "latency_ms",
        target.goal(whole),
        whole,
        lambda widths: predicted(widths) * whole / macs,
        lambda done, _: whole * _share_of_time(model, done.apply(shared_copy(model)), example_inputs, whole),
    )


def macs_of_one(model: nn.Module, inputs: tuple[Tensor, ...], traced_macs: int) -> int:
    """Of one sample, as the trace counted them for the batch."""
    samples = samples_of(inputs)
    return traced_macs // samples if samples and traced_macs % samples == 0 else count(model, inputs).macs


def cost_predictor(
    form: CostForm, share: CostForm, groups: ChannelGroups, whole: float
) -> Callable[[Mapping[str, float]], float]:
    """Cost by widths, of groups that are not whole: the form, and the rest of ``whole`` in proportion to ``share``."""
    full = {group.name: float(group.channels) for group in groups}
    rest, all_of_it = max(whole - form.value(full), 0.0), share.value(full)

    def cost(widths: Mapping[str, float]) -> float:
        at = full | dict(widths)
        return form.value(at) + (rest * share.value(at) / all_of_it if rest else 0.0)

    return cost


def _parameters_left(trace: Trace, done: Surgery, _macs: int) -> float:
    with restored(trace.subject):
        return float(parameter_count(cut_channels(trace.subject, done.cuts)))


def _share_of_time(model: nn.Module, pruned: nn.Module, example_inputs: tuple[Tensor, ...], whole_ms: float) -> float:
    """Time of ``pruned`` over that of ``model``, run in turns, so that a busy machine is unfair to both."""
    device = next(model.parameters()).device
    inputs = on_device(first_sample(example_inputs), device)

    def forward(network: nn.Module) -> None:
        network(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    runs = int(min(max(_PATIENCE / whole_ms, 9), 101))
    with torch.inference_mode(), in_eval_mode(model), in_eval_mode(pruned), one_thread():
        found = interleaved({"model": partial(forward, model), "pruned": partial(forward, pruned)}, warmup=3, runs=runs)
    return found["pruned"].median_ms / found["model"].median_ms
