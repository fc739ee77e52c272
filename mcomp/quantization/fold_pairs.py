"""Which batch norm belongs to which layer, by dataflow, and why some belong to none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx, nn
from torch.nn.utils import parametrize

from mcomp.quantization.config import OFF
from mcomp.quantization.dataflow import call_name
from mcomp.quantization.folded import FOLDED, FoldedLayer
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.operands import signature

BatchNorm = nn.modules.batchnorm._BatchNorm
Trouble = Callable[[fx.Node], str]
_FOLDABLE = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass
class Fold:
    """A layer and the batch norms to fold into it: the one ``behind`` it and the one in ``front``; "" for none."""

    layer: str
    behind: str = ""
    front: str = ""


def find_folds(traced: fx.GraphModule, model: nn.Module, dims: Mapping[str, int]) -> tuple[list[Fold], dict[str, str]]:
    """Folds in graph order (quantised layers without a batch norm included), and why the other batch norms stay.

    ``dims`` is the number of dimensions that each layer's output has.
    """
    modules = dict(traced.named_modules(remove_duplicate=False))
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    calls = Counter(id(modules[str(node.target)]) for node in nodes)
    shared = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    folds: dict[str, Fold] = {}
    left: dict[str, str] = {}

    def trouble(node: fx.Node) -> str:
        """Why the layer called at ``node`` cannot take a batch norm, or nothing."""
        name = str(node.target)
        layer = modules[name]
        if calls[id(layer)] > 1:
            return f"`{name}` is called {calls[id(layer)]} times"
        if shared[id(layer._parameters.get("weight"))] > 1:
            return f"`{name}` shares its weight with another layer"
        if parametrize.is_parametrized(layer) or layer._forward_pre_hooks:
            return f"the weight of `{name}` is computed by a hook"
        if isinstance(layer, QuantizedLayer) and layer.channel_axis and int(getattr(layer, "groups", 1)) > 1:
            return f"the groups of `{name}` share their scales"
        if isinstance(layer, nn.Linear) and dims.get(name) != 2:
            return f"the output of `{name}` has more than two dimensions"
        return ""

    for node in nodes:
        name = str(node.target)
        module = modules[name]
        if type(module) in FOLDED and module.weight_quantizer.bits != OFF:
            folds.setdefault(name, Fold(name))
        if not isinstance(module, BatchNorm):
            continue
        if calls[id(module)] > 1:
            left[name] = f"it is called {calls[id(module)]} times"
        elif module.running_mean is None:
            left[name] = "it keeps no running statistics"
        else:
            left[name] = _attach(node, modules, folds, trouble)
    ordered = [folds[name] for name in dict.fromkeys(str(node.target) for node in nodes) if name in folds]
    return ordered, {name: why for name, why in left.items() if why}


def _attach(node: fx.Node, modules: dict[str, nn.Module], folds: dict[str, Fold], trouble: Trouble) -> str:
    """Add the batch norm at ``node`` to a fold; returns why not, or nothing."""
    name = str(node.target)
    before = _through_identity(node.all_input_nodes[0], modules)
    if before.op == "call_module" and isinstance(modules[str(before.target)], _FOLDABLE):
        layer = modules[str(before.target)]
        why = trouble(before)
        if not why and isinstance(layer, FoldedLayer):
            why = f"`{before.target}` holds integers already"
        if not why and len(before.users) > 1:
            why = f"`{before.target}` is read by {len(before.users)} operations"
        if not why:
            folds.setdefault(str(before.target), Fold(str(before.target))).behind = name
        return why
    multiplies = signature(before)
    if multiplies is not None and multiplies.weight is not None:
        return (
            f"the function `{call_name(before)}` stands before it, which no layer calls: "
            "its weight stays as it is, for whoever else reads it"
        )
    return _attach_in_front(node, modules, folds, trouble)


def _attach_in_front(node: fx.Node, modules: dict[str, nn.Module], folds: dict[str, Fold], trouble: Trouble) -> str:
    users = list(node.users)
    reader = users[0] if len(users) == 1 else None
    layer = modules[str(reader.target)] if reader is not None and reader.op == "call_module" else None
    if reader is None or not isinstance(layer, _FOLDABLE):
        return "no convolution or linear layer stands directly before it"
    if isinstance(layer, (QuantizedLayer, FoldedLayer)):
        return f"it stands before `{reader.target}`, whose integers have no scale per input channel"
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return f"it stands before the transposed convolution `{reader.target}`"
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.padding_mode == "zeros" and _pads(layer):
        return f"`{reader.target}` pads its output with zeros, which a fold would shift"
    why = trouble(reader)
    if not why:
        folds.setdefault(str(reader.target), Fold(str(reader.target))).front = str(node.target)
    return why


def _pads(layer: nn.modules.conv._ConvNd) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(layer.padding)


def _through_identity(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    while node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity) and len(node.users) == 1:
        node = node.all_input_nodes[0]
    return node
