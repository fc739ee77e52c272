"""What the loss would do without a channel, told from gradients.

* ``taylor``: to first order, with a gate in front of everything that reads the channel: the square of the derivative
  with respect to the gate, averaged over batches (Molchanov et al., "Importance Estimation for Neural Network Pruning",
  arXiv:1906.10771, eq. 10). The gate stands behind the batch norm where every channel has one, ``(γ·∂L/∂γ +
  β·∂L/∂β)²``, else behind the layer, ``(Σ w·∂L/∂w + b·∂L/∂b)²`` over its filter.
* ``hessian``: to second order, each weight for itself: ``½ Σ h·w²`` over the filter (LeCun et al., "Optimal Brain
  Damage", 1990), with the diagonal ``h`` of the Hessian estimated by squared gradients, averaged over batches (Theis et
  al., arXiv:1801.05787).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import McompError, UsageError
from mcomp.pruning.channel_groups import ChannelGroups
from mcomp.pruning.targets import shown
from mcomp.training.preparation import logits

#: Inputs, a tensor or several, and labels.
Batch = tuple[Tensor | tuple[Tensor, ...], Tensor]

#: ``(outputs, labels) -> scalar``, averaged over the batch.
Loss = Callable[[Any, Tensor], Tensor]


def gradient_scores(
    model: nn.Module, groups: ChannelGroups, kind: str, batches: Iterable[Batch], loss: Loss | None = None
) -> dict[tuple[str, int], Tensor]:
    """Score the slices of every weight that makes or scales channels.

    Args:
        model: in eval mode; neither its weights nor its gradients are touched.
        groups: what its trace gave.
        kind: ``taylor`` or ``hessian``.
        batches: each computed on the device that its tensors are on.
        loss: cross-entropy of the class scores where left out.

    Returns:
        Parameter and axis to ``[slices]`` float64 on the CPU.

    Raises:
        UsageError: MC456, there is no batch, or one that the model or the loss cannot take.
    """
    twin = copy.deepcopy(model).requires_grad_(True)
    wanted = _wanted(groups, {name for name, _ in twin.named_parameters()})
    totals: dict[tuple[str, int], Tensor] = {}
    count = 0
    for inputs, labels in _pairs(batches):
        twin.to(labels.device)
        parameters = dict(twin.named_parameters())
        gradients = _gradients(twin, parameters, inputs, labels, loss or _cross_entropy)
        for name, axis in wanted:
            found = _contribution(parameters, gradients, name, axis, kind)
            totals[name, axis] = totals[name, axis] + found if count else found
        count += 1
    if not count:
        raise UsageError(
            f"`importance: {kind}` looks at gradients, and there is no batch to take them from",
            code="MC456",
            hint="pass `batches=[(inputs, labels), …]`, a few hundred samples in all",
        )
    return {key: total / count for key, total in totals.items()}


def _pairs(batches: object) -> Iterator[Batch]:
    """The batches, seen to be pairs of inputs and labels.

    Raises:
        UsageError: MC456, they are something else.
    """
    hint = "pass `batches=[(inputs, labels), …]`, labels as a tensor"
    if not isinstance(batches, Iterable):
        raise UsageError(f"`batches` is {shown(batches)}; it must give batches", code="MC456", hint=hint)
    for place, batch in enumerate(batches, 1):
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise UsageError(f"batch {place} of `batches` is no pair of inputs and labels", code="MC456", hint=hint)
        yield batch[0], batch[1]


def _wanted(groups: ChannelGroups, parameters: Set[str]) -> list[tuple[str, int]]:
    """Parameters and axes to score: a buffer, such as the kernel of a blur, is the same for every channel."""
    gammas = set(groups.trace.gammas)
    found = {
        (axis.parameter, axis.axis): None
        for group in groups.prunable
        for axis in group.coupled
        if axis.role == "rows" or (axis.role == "values" and axis.parameter in gammas)
        if axis.parameter in parameters
    }
    return list(found)


def _gradients(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    inputs: Tensor | tuple[Tensor, ...],
    labels: Tensor,
    loss: Loss,
) -> dict[str, Tensor]:
    dtype = next(iter(parameters.values())).dtype
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    given = tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in given)
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN's RNNs have no gradient in eval mode
        value = _loss_of(model, given, labels, loss)
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}


def _loss_of(model: nn.Module, given: tuple[Tensor, ...], labels: Tensor, loss: Loss) -> Tensor:
    try:
        value = loss(model(*given), labels)
    except (McompError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        own = "the loss" if loss is not _cross_entropy else "cross-entropy"
        raise UsageError(
            f"the model or {own} fails on a batch of `batches`: {type(error).__name__}: {text:.200}",
            code="MC456",
            hint="a batch is a pair `(inputs, labels)`; pass `loss=` where the labels are no classes",
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise UsageError(
            f"`loss` gives {found}; it must be one number for the batch", code="MC456", hint="end it with `.mean()`"
        )
    return value.reshape(())


def _cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits(outputs), labels)


def _contribution(
    parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor], name: str, axis: int, kind: str
) -> Tensor:
    """``[slices]`` of one batch."""
    weight = parameters[name].detach()
    slices = weight.shape[axis]
    if name not in gradients:  # an auxiliary head, say, that eval mode leaves out
        return torch.zeros(slices, dtype=torch.float64)
    product = (weight * gradients[name]).movedim(axis, 0).reshape(slices, -1).double()
    if kind == "hessian":
        return product.square().sum(1).cpu() / 2
    gate = product.sum(1)
    bias = _bias_of(name)
    if bias in gradients and gradients[bias].numel() == slices:
        gate = gate + (parameters[bias].detach() * gradients[bias]).flatten().double()
    return gate.square().cpu()


def _bias_of(weight: str) -> str:
    """``conv.weight`` to ``conv.bias``, ``rnn.weight_ih_l0`` to ``rnn.bias_ih_l0``."""
    path, dot, attribute = weight.rpartition(".")
    return f"{path}{dot}{attribute.replace('weight', 'bias')}"
