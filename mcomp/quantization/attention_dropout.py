"""Dropout inside functional attention: its chance is a number of one mode, where a graph has to follow ``train()``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from mcomp.quantization.dataflow import call_name
from mcomp.quantization.operands import ATTENTION, operand

_CHANCE = (4, "dropout_p")


class DropoutChance(nn.Module):
    """How likely attention drops a weight: ``training`` in training mode, and ``evaluating`` in eval mode."""

    def __init__(self, training: float, evaluating: float) -> None:
        super().__init__()
        self.chances = {True: training, False: evaluating}

    def forward(self) -> float:
        """The chance of the present mode."""
        return self.chances[self.training]


def training_chances(model: nn.Module, graph: fx.Graph, train_graph: Callable[[], fx.Graph]) -> list[Any]:
    """What each attention of an eval-mode ``graph`` drops in training mode, in order; empty where nothing tells.

    Args:
        model: whose graphs they are, for the warning.
        graph: of eval mode.
        train_graph: makes the other one; asked only where there is any attention.
    """
    calls = _attentions(graph)
    if not calls:
        return []
    try:
        others = _attentions(train_graph())
    except Exception as error:  # whatever the user's forward raises when it meets a symbol
        others = []
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    else:
        reason = f"it has {len(others)} of them there, and {len(calls)} in eval mode"
    if len(others) == len(calls):
        return [operand(other, _CHANCE) for other in others]
    warnings.warn(
        f"dropout of functional attention is as in eval mode: `{type(model).__name__}` has no graph in training mode "
        f"that would tell ({reason}); pass `route='modules'` to keep it",
        stacklevel=2,
    )
    return []


def follow_mode(owner: nn.Module, graph: fx.Graph, chances: Sequence[Any]) -> None:
    """Let every attention of ``graph`` drop in training as :func:`training_chances` found; modules go to ``owner``."""
    if not chances:
        return
    for node, training in zip(_attentions(graph), chances, strict=True):
        found = (training or 0.0, operand(node, _CHANCE) or 0.0)
        if found[0] != found[1] and not any(isinstance(each, fx.Node) for each in found):
            _insert(owner, graph, node, DropoutChance(float(found[0]), float(found[1])))


def _attentions(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and call_name(node) == ATTENTION]


def _insert(owner: Any, graph: fx.Graph, node: fx.Node, chance: DropoutChance) -> None:
    if not hasattr(owner, "traced_dropouts"):
        owner.add_module("traced_dropouts", nn.Module())
    owner.traced_dropouts.add_module(node.name, chance.train(owner.training))
    with graph.inserting_before(node):
        made = graph.call_module(f"traced_dropouts.{node.name}")
    position, keyword = _CHANCE
    if len(node.args) > position:
        node.update_arg(position, made)
    else:
        node.update_kwarg(keyword, made)
