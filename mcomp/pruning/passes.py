"""The passes in which labels are followed: in eval mode, in train mode where that meets more; as a ghost, or real."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from mcomp.pruning.channel_surgery import restored
from mcomp.pruning.collecting import no_collection
from mcomp.pruning.ghost import ghost, ghostly, is_ghost
from mcomp.pruning.held_tensors import copied_inputs
from mcomp.pruning.tracing import Heads, Operation, Trace, Tracer

#: The key of our hooks, which is a number where PyTorch makes it.
_HOOK: Any = "mcomp"


class TraceFailure(Exception):
    """The forward raised.

    Attributes:
        cause: what it raised.
        operations: ops until then.
        module: that was running.
    """

    def __init__(self, cause: Exception, operations: list[Operation], module: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.operations = operations
        self.module = module


@torch.inference_mode(False)
@no_collection()
def trace_labels(
    model: nn.Module, inputs: tuple[Tensor, ...], like: Trace | None = None, heads: Heads = "dims"
) -> Trace:
    """Run ``model`` once on ``inputs`` and follow the labels.

    It runs as a ghost, all shapes and no values, so that no arithmetic is done; where its code asks for values (an
    ``if`` on a tensor, ``.item()``), it runs for real. Where parameters were not met on the way (auxiliary heads that
    only exist in training), it runs again in train mode: they must still fit after pruning.

    Args:
        model: in eval mode, on the CPU; hooks are put on it and taken off again. The subject of ``like``, cut, where
            that is given.
        inputs: a batch that it accepts.
        like: trace of the network from which ``model`` was pruned.
        heads: what goes at the least of an attention layer.

    Raises:
        TraceFailure: the forward raised.
    """
    if like is not None:
        return _traced(model, like.inputs, like, like.heads)
    try:
        return _untouched(ghost(model), ghostly(inputs), heads)
    except (TraceFailure, NotImplementedError, RuntimeError, TypeError):  # its code asks for values, or will not copy
        return _untouched(model, inputs, heads)


def _untouched(model: nn.Module, inputs: tuple[Tensor, ...], heads: Heads) -> Trace:
    """The trace of ``model``, which forgets what its forward keeps for the next one: a narrow network needs another."""
    with restored(model) as kept:
        found = _traced(model, inputs, None, heads)
        return replace(found, writes=kept.written)


def _traced(model: nn.Module, inputs: tuple[Tensor, ...], like: Trace | None, heads: Heads) -> Trace:
    tracer = Tracer(model, like, heads)
    try:
        return _followed(tracer, model, inputs, like)
    finally:
        tracer.forget()


def _followed(tracer: Tracer, model: nn.Module, inputs: tuple[Tensor, ...], like: Trace | None) -> Trace:
    cut_short = False
    try:
        _run(tracer, model, inputs)
    except TraceFailure as failure:
        values_wanted = is_ghost(model) and not tracer.unmet() if like is None else like.cut_short
        if not values_wanted:
            raise
        cut_short = True
        tracer.leave(_at_hand(failure.cause))
    macs, trained = tracer.seen.flops // 2, False
    tracer.seen.evaluated = len(tracer.seen.operations)
    if tracer.unmet() if like is None else like.trained:
        tracer.counts_factors = False  # the pass in eval mode met them all
        try:
            with _train_mode(model):
                _run(tracer, model, inputs)
            trained = True
        except TraceFailure:
            if like is not None:
                raise
            # these inputs do not suit training (an auxiliary head may be too deep for them): start afresh without it
            fresh = Tracer(model, like, tracer.heads)
            try:
                _run(fresh, model, inputs)
                fresh.seen.evaluated = len(fresh.seen.operations)
                return fresh.finish(inputs, trained=False, cut_short=False, macs=macs)
            finally:
                fresh.forget()
    return tracer.finish(inputs, trained=trained, cut_short=cut_short, macs=macs)


def _at_hand(cause: Exception) -> list[Tensor]:
    """The tensors that the person's code was working on when it asked for values: they may become outputs."""
    frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__) if not _is_of_torch_or_ours(frame)]
    held = list(frames[-1].f_locals.values()) if frames else []
    return [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]


def _is_of_torch_or_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("torch", "mcomp")


def _run(tracer: Tracer, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    tracer.module = ""
    inputs = copied_inputs(inputs)
    tracer.enter(inputs)
    with torch.no_grad(), _module_names(model, tracer), plain_operators():
        try:
            with tracer:
                results = model(*inputs)
        except Exception as error:  # a user's forward may raise anything
            raise TraceFailure(error, tracer.seen.operations, tracer.module) from error
    tracer.leave(results)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Attention and recurrent layers as the products and sums they are made of, not as one fused op."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn


@contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode for one pass that leaves no trace: buffers and the random state come back as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.eval()
        for buffer, before in buffers:
            buffer.copy_(before)


@contextmanager
def _module_names(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Keep ``tracer.module`` at the name of the innermost module that is running."""
    stack: list[str] = []
    modules = dict(model.named_modules())

    def enter(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            stack.append(tracer.module)
            tracer.module = name

        return hook

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        tracer.module = stack.pop()

    try:
        for name, module in modules.items():  # as `register_forward_hook` does, whose handles take longer
            module._forward_pre_hooks[_HOOK] = enter(name)
            module._forward_pre_hooks.move_to_end(_HOOK, last=False)
            module._forward_hooks[_HOOK] = leave
        yield
    finally:
        for module in modules.values():
            module._forward_pre_hooks.pop(_HOOK, None)
            module._forward_hooks.pop(_HOOK, None)
